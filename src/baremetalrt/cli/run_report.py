"""The report of a run that has ended, for people."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from baremetalrt.learning.learn import Checked, Checks, Report

_MAX_CHARS: Final = 400
_SIDES: Final = {
    "learned": "questions trained on",
    "trained": "passages trained on",
    "held out": "held-out text",
}
_ANSWERS: Final = {"before": "before", "after": "after", "with_passage": "passage at hand"}
_WHAT_IT_DOES: Final = (
    "Training changes how the model writes: style, vocabulary, turns of phrase. It is no way to look "
    "facts up: for those, give the passage with the question."
)


def describe(report: "Report") -> str:
    """The report for people. What was asked comes last: perplexity does not tell what was learned."""
    r = report
    lines = [
        f"{r.train_tokens} tokens in {r.steps} steps, {r.tokens_per_s:.0f} tok/s",
        f"kept is step {r.kept_step}: {r.kept}",
        "",
        f"{'perplexity':24} {'before':>10} {'after':>10}",
    ]
    for name, change in (
        ("held-out text", r.held_out_perplexity),
        ("general text", r.general_perplexity),
    ):
        if change is None:
            lines.append(f"{name:24} there is none")
            continue
        lines.append(
            f"{name:24} {change.before:10.2f} {change.after:10.2f}  ({100 * change.relative:+.1f} %)"
        )
    lines += ["", f"{'recited word for word':24} {'before':>10} {'after':>10}"]
    for name, spans, change in (
        ("training text", r.train_spans, r.train_recited),
        ("held-out text", r.held_out_spans, r.held_out_recited),
    ):
        lines.append(
            f"{name:24} {change.before:10.0f} {change.after:10.0f}  of {spans} passages of 50 tokens"
        )
    for sample in r.samples:
        lines += ["", f"prompt: {_short(sample.prompt)}"]
        lines += [f"before: {_short(sample.before)}", f"after:  {_short(sample.after)}"]
    lines += ["", f"This adapter is {r.privacy}."]
    lines += [f"warning: {warning}" for warning in r.warnings]
    if r.checks is not None:
        lines += ["", *_checks(r.checks)]
    lines += ["", _WHAT_IT_DOES]
    return "\n".join(lines)


def _checks(checks: "Checks") -> list[str]:
    lines = []
    if checks.checked:
        head = "".join(f" {title:>16}" for title in _ANSWERS.values())
        lines = [f"{'answered right':24}{head}"]
        for side, title in _SIDES.items():
            counts = [checks.num_right(side, answer) for answer in _ANSWERS]  # type: ignore[arg-type]
            cells = [f"{right} of {asked}" if asked else "" for right, asked in counts]
            if any(cells):
                lines.append(f"{title:24}" + "".join(f" {cell:>16}" for cell in cells))
        lines.append(f"({checks.judged_by})")
    if checks.note:
        lines.append(f"questions: {checks.note}")
    for checked in checks.checked:
        lines += ["", *_answers(checked)]
    return lines


def _answers(checked: "Checked") -> list[str]:
    lines = [
        f"question ({_SIDES[checked.side]}): {_short(checked.question)}",
        f"{'expected:':17}{_short(checked.expected)}",
    ]
    for name, title in _ANSWERS.items():
        said = getattr(checked, name)
        if said is not None:
            mark = " [right]" if checked.right.get(name) else ""
            lines.append(f"{title + ':':17}{_short(said)}{mark}")
    return lines


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MAX_CHARS else "…" + flat[-_MAX_CHARS:]
