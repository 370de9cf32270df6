"""One line on standard error that says how far something is."""

import shutil
import sys
import time
from typing import Final, Self

from baremetalrt.cli import output

_TERMINAL_INTERVAL_S: Final = 0.2
# Log files do not need to know more often.
LOG_INTERVAL_S: Final = 10.0


class StatusLine:
    """A line that is rewritten on a terminal, and one now and then elsewhere. A context manager.

    Nothing is shown in the first `after_s` seconds: what ends sooner needs no line.
    """

    def __init__(self, *, after_s: float = 0.0, log_interval_s: float = LOG_INTERVAL_S) -> None:
        self.is_terminal = sys.stderr.isatty()
        self._interval_s = _TERMINAL_INTERVAL_S if self.is_terminal else log_interval_s
        self._next_s = time.monotonic() + after_s
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    @property
    def is_due(self) -> bool:
        """Whether `update` would show anything now."""
        return time.monotonic() >= self._next_s

    def update(self, line: str) -> None:
        """Shows this, unless something was shown a moment ago."""
        if self.is_due:
            self.show(line)

    def show(self, line: str) -> None:
        """Shows this now."""
        self._next_s = time.monotonic() + self._interval_s
        if not self.is_terminal:
            output.note(line)
            return
        # One that wraps could not be rewritten.
        line = line[: shutil.get_terminal_size().columns - 1]
        print("\r" + line.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def clear(self) -> None:
        """Takes the line away, so that something else can be printed."""
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0
