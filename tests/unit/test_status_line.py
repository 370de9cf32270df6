"""The line that says how far something is: rewritten on a terminal, now and then elsewhere."""

import io
from types import SimpleNamespace
from typing import Final

import pyte
import pytest

from baremetalrt.cli import status_line
from baremetalrt.cli.status_line import StatusLine

COLUMNS: Final = 40


class Screen(io.StringIO):
    """A terminal of forty columns."""

    def isatty(self) -> bool:
        return True

    @property
    def seen(self) -> list[str]:
        """What of its lines somebody would see, as a terminal of another author's draws them."""
        drawn = pyte.Screen(COLUMNS, 4)
        pyte.Stream(drawn).feed(self.getvalue().replace("\n", "\r\n"))
        return [line.rstrip() for line in drawn.display if line.strip()]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    # Not `sys.stderr` itself, which pytest puts back before the test.
    monkeypatch.setattr(status_line, "sys", SimpleNamespace(stderr=screen))
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("TERM", "xterm")
    return screen


def test_a_line_takes_the_place_of_the_last_and_goes_at_the_end(screen: Screen) -> None:
    with StatusLine() as status:
        for line in ("a long line about a file", "short", "x" * 100):
            status.show(line)
            (seen,) = screen.seen
            assert seen == line[:COLUMNS]
    assert screen.seen == []


def test_what_is_soon_over_shows_nothing(screen: Screen) -> None:
    with StatusLine(after_s=60) as status:
        status.update("reading")
        assert not status.is_due
    assert screen.getvalue() == ""


def test_a_moment_later_is_not_shown_again(screen: Screen) -> None:
    with StatusLine() as status:
        status.update("first")
        status.update("second")
        assert screen.seen == ["first"]


def test_in_a_log_there_are_whole_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine(log_interval_s=60) as status:
        for line in ("first", "second", "x" * 200):
            status.update(line)
        status.show("last")
    assert capsys.readouterr().err == "first\nlast\n"
