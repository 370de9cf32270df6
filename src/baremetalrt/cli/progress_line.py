"""How far something is, in a line."""

from typing import TYPE_CHECKING, Final

from baremetalrt.core.errors import one_line
from baremetalrt.core.units import format_bytes, format_duration

if TYPE_CHECKING:
    from baremetalrt.learning.events import GatherProgress, TuneProgress

_NAME_CHARS: Final = 30


def gathering_line(progress: "GatherProgress") -> str:
    """`reading   45 %  1.2 GiB of 2.6 GiB  8123 documents  inbox.mbox`."""
    if not progress.total:
        return f"{progress.phase} …"
    line = f"{progress.phase}  {100 * progress.done / progress.total:3.0f} %"
    if progress.path:
        line += f"  {format_bytes(progress.done)} of {format_bytes(progress.total)}"
        name = progress.path.replace("\\", "/").rpartition("/")[2]
        name = name if len(name) <= _NAME_CHARS else name[: _NAME_CHARS - 1] + "…"
        return one_line(f"{line}  {progress.num_documents} documents  {name}")
    return f"{line}  {progress.num_documents} documents"


def tuning_line(p: "TuneProgress") -> str:
    """`training 12/150, loss 2.345, held out 2.456, 1200 tok/s, up to about 4 min 10 s left`."""
    parts = [f"{p.phase} {p.step}/{p.num_steps}" if p.num_steps else p.phase]
    if p.loss is not None:
        parts.append(f"loss {p.loss:.3f}")
    if p.held_out_loss is not None:
        parts.append(f"held out {p.held_out_loss:.3f}")
    if p.tokens_per_s is not None:
        parts.append(f"{p.tokens_per_s:.0f} tok/s")
    # The report is a part of it, so there is always something left; none of it is worth a word.
    if p.left_s is not None and p.left_s >= 1:
        parts.append(f"up to about {format_duration(p.left_s)} left")
    if p.note:
        parts.append(p.note)
    return ", ".join(parts)
