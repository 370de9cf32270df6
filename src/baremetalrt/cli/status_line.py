"""One line on standard error that says how far something is."""

import sys
import time
from typing import TYPE_CHECKING, Final, Self

from baremetalrt.cli import output, terminal

if TYPE_CHECKING:
    from rich.live import Live

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
        self._live: Live | None = None

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
        # Here and not above: most commands end before a line is due.
        from rich.text import Text

        # One that wraps could not be rewritten.
        text = Text(terminal.shown(line), no_wrap=True, overflow="crop", end="")
        if self._live is None:
            self._live = _live()
            self._live.start()
        self._live.update(text, refresh=True)

    def clear(self) -> None:
        """Takes the line away, so that something else can be printed."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _live() -> "Live":
    """A display without a thread of its own: it is drawn when something is shown."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=terminal.controlled(sys.stderr), color_system=None, highlight=False)
    return Live(
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
