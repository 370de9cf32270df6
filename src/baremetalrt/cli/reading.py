"""One line that says how far the reading of documents is."""

import sys
import time
from typing import TYPE_CHECKING, Final, Self

from baremetalrt.cli import output
from baremetalrt.core.errors import one_line
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.documents.gathering import Progress

_SILENT_S: Final = 1.0
_TERMINAL_INTERVAL_S: Final = 0.2
_LOG_INTERVAL_S: Final = 10.0
_NAME_CHARS: Final = 30


class ReadingLine:
    """A line that is rewritten on a terminal, and one now and then elsewhere. A context manager."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._next_s = time.monotonic() + (_SILENT_S if self._is_terminal else _LOG_INTERVAL_S)
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)

    def show(self, progress: "Progress") -> None:
        """Shows this, unless something was shown a moment ago."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (_TERMINAL_INTERVAL_S if self._is_terminal else _LOG_INTERVAL_S)
        line = describe(progress)
        if not self._is_terminal:
            output.note(line)
            return
        print("\r" + line.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width = max(self._width, len(line))


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
