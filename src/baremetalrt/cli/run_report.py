"""The report of a run that has ended, for people."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from baremetalrt.learning.learn import Report

_MAX_CHARS: Final = 400


def describe(report: "Report") -> str:
    """The report for people."""
    r = report
    best = f"best after step {r.best_step} of {r.steps}"
    lines = [
        f"{r.train_tokens} tokens in {r.steps} steps, {r.tokens_per_s:.0f} tok/s; {best}",
        "",
        f"{'perplexity':24} {'before':>10} {'after':>10}",
    ]
    for name, change in (
        ("held-out text", r.held_out_perplexity),
        ("general text", r.general_perplexity),
    ):
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
    return "\n".join(lines)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MAX_CHARS else "…" + flat[-_MAX_CHARS:]
