"""Where output goes: data to standard output, everything for people's eyes to standard error."""

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from baremetalrt.cli import terminal
from baremetalrt.core.errors import BareMetalError

_SILENT_S: Final = 1.0
# Where nobody looks at the right edge, no cell is cut.
_ENDLESS: Final = 10_000


def print_json(value: object) -> None:
    """One JSON value on one line."""
    print(json.dumps(value, ensure_ascii=False))


def note(line: str) -> None:
    """A line for people; where they have hung up, nobody needs it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        pass


def note_error(error: BareMetalError) -> None:
    """One line of what, one of hint."""
    note(f"error: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as their content; numbers to the right."""
    import shutil

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _ENDLESS
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for i, name in enumerate(header):
        is_number = bool(rows) and all(str(row[i])[:1].isdigit() for row in rows)
        table.add_column(Text(name), justify="right" if is_number else "left")
    for row in rows:
        # As text, not as markup: names come from elsewhere.
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console(width=width, color_system=None, soft_wrap=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Says what is going on, on a terminal, once it takes longer than a second."""
    if not sys.stderr.isatty():
        yield
        return
    shown = threading.Event()

    def show() -> None:
        shown.set()
        print(f"{what} …", end="", file=sys.stderr, flush=True)

    timer = threading.Timer(_SILENT_S, show)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if shown.is_set():
            blank = "\r" + " " * (len(what) + 2) + "\r"
            print(blank, end="", file=terminal.controlled(sys.stderr), flush=True)
