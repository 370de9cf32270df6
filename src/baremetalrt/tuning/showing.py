"""How a run looks to somebody who watches it: one line that changes, and a report at the end."""

from baremetalrt.tuning.config import Progress
from baremetalrt.tuning.report import Report

_MAX_CHARS = 400


def line(p: Progress) -> str:
    """The state of a run in one line."""
    parts = [f"{p.phase} {p.step}/{p.num_steps}" if p.num_steps else p.phase]
    if p.loss is not None:
        parts.append(f"loss {p.loss:.3f}")
    if p.held_out_loss is not None:
        parts.append(f"held out {p.held_out_loss:.3f}")
    if p.tokens_per_s is not None:
        parts.append(f"{p.tokens_per_s:.0f} tok/s")
    if p.left_s is not None and p.phase != "reporting":
        parts.append(f"{duration(p.left_s)} left at most")
    if p.note:
        parts.append(p.note)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`1 h 05 min`, `4 min 10 s`, `9 s`."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600} h {s % 3600 // 60:02} min"
    return f"{s // 60} min {s % 60:02} s" if s >= 60 else f"{s} s"


def describe(report: Report) -> str:
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
