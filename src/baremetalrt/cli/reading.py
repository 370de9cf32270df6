"""How far the reading of documents is, in a line."""

from typing import TYPE_CHECKING, Final

from baremetalrt.core.errors import one_line
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.documents.gathering import Progress

_NAME_CHARS: Final = 30


def describe(progress: "Progress") -> str:
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
