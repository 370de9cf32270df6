"""What happens while a model is opened and fetched, as people see it on standard error."""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final, Self

from baremetalrt.cli import output
from baremetalrt.cli.status_line import LOG_INTERVAL_S, StatusLine
from baremetalrt.core.units import format_bytes, format_duration
from baremetalrt.node.events import (
    Asking,
    Checking,
    Chosen,
    Event,
    Fetching,
    FoundNearby,
    Hashing,
    LeftNearby,
    Loaded,
    Loading,
    Rotten,
)

_MAP_CHARS: Final = 32
_LONELY_S: Final = 10.0


class TorrentDisplay:
    """Prints events of a model; a context manager, in the end of which its line goes away."""

    def __init__(self) -> None:
        # A log needs no line of what ends soon.
        self._line = StatusLine(after_s=0.0 if sys.stderr.isatty() else LOG_INTERVAL_S)
        self._is_shown = True
        self._began_at = time.monotonic()
        self._is_hinted = False
        self._working: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Shows nothing until `show` is called: something else is being printed."""
        self._is_shown = False
        self._end_work()
        self._line.clear()

    def show(self, arrival: Fetching | None) -> None:
        """Goes on showing a model that arrives, as long as something of it is missing."""
        self._is_shown = arrival is not None and not arrival.is_complete

    def on_event(self, event: Event) -> None:
        if isinstance(event, Rotten):
            output.note(
                f"warning: {event.num_pieces} pieces of {event.name} have rotted on disk; this answer "
                "may be wrong. They are fetched again on the next run."
            )
        elif isinstance(event, Chosen):
            output.note(f"{event.name}: {format_bytes(event.num_bytes)}")
        elif isinstance(event, FoundNearby):
            self._line.clear()
            output.note(f"{event.name} comes from a machine nearby, {event.peer}")
        elif isinstance(event, LeftNearby):
            self._line.clear()
            output.note(f"{event.peer} is left: {event.why}")
        elif isinstance(event, Loading):
            self._work(f"loading {event.name}")
        elif isinstance(event, Hashing):
            self._work(f"hashing {event.name}")
        elif isinstance(event, Loaded):
            self._end_work()
        elif self._is_shown:
            self._hint_at_loneliness(event)
            self._line.update(describe(event))

    def _work(self, what: str) -> None:
        """Says what goes on, once it takes a while, until it ends."""
        self._end_work()
        self._working = output.progress(what)
        self._working.__enter__()

    def _end_work(self) -> None:
        if self._working is not None:
            self._working.__exit__(None, None, None)
            self._working = None

    def _hint_at_loneliness(self, event: Asking | Checking | Fetching) -> None:
        is_alone = not isinstance(event, Fetching) or not event.num_peers
        if is_alone and not self._is_hinted and time.monotonic() - self._began_at >= _LONELY_S:
            self._is_hinted = True
            self._line.clear()
            output.note(
                "no peers yet; --peer HOST:PORT names one that has the model, "
                "--swarm NAME the private swarm that it may belong to"
            )


def describe(event: Asking | Checking | Fetching) -> str:
    """One line: how much, how fast, from how many, how long still."""
    if isinstance(event, Asking):
        return "asking for the torrent …"
    if isinstance(event, Checking):
        return "checking what is here …"
    done, total = event.have_bytes, event.wanted_bytes
    percent = 100 * done / total if total else 100.0
    line = f"{percent:5.1f} %  {format_bytes(done)} of {format_bytes(total)}"
    line += f"  ↓ {format_bytes(event.download_rate)}/s  ↑ {format_bytes(event.upload_rate)}/s"
    line += f"  {event.num_peers} peers"
    if event.left_s is not None and done < total:
        line += f"  {format_duration(event.left_s)} left"
    if event.blocks_here is not None:
        line += f"  [{draw_blocks(event.blocks_here)}]"
    return line


def draw_blocks(here: Sequence[bool]) -> str:
    """A character per block, or per few of them: full, partly there, not there."""
    if not here:
        return ""
    each = -(-len(here) // _MAP_CHARS)
    groups = [here[i : i + each] for i in range(0, len(here), each)]
    return "".join("█" if all(g) else "▒" if any(g) else "·" for g in groups)
