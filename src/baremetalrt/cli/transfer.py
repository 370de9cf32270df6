"""What a running torrent looks like on a terminal."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from baremetalrt.cli import output
from baremetalrt.cli.status_line import LOG_INTERVAL_S, StatusLine
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.swarm.torrent import Progress, Torrent
    from baremetalrt.weights.gguf import GGUFFile

_INTERVAL_S: Final = 0.5
_MAP_CHARS: Final = 32
_LONELY_S: Final = 10.0


class Display:
    """Shows how a torrent is doing, on standard error: a line that is rewritten, or one now and then."""

    def __init__(self) -> None:
        self.torrent: Torrent | None = None
        self.file: GGUFFile | None = None
        self.status = "starting"
        self._status_line = StatusLine()
        self._is_shown = True

    @asynccontextmanager
    async def shown(self) -> AsyncIterator["Display"]:
        task = asyncio.ensure_future(self._run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.clear()

    def follow(self, torrent: "Torrent", file: "GGUFFile | None") -> None:
        """Shows this torrent from now on, and its blocks once the header says what they are."""
        self.torrent, self.file = torrent, file

    def finish(self) -> None:
        """Shows nothing until `show` is called: something else is being printed."""
        self._is_shown = False
        self.clear()

    def show(self) -> None:
        """Goes on showing, as long as something is missing."""
        self._is_shown = self.torrent is None or not self.torrent.is_complete

    def clear(self) -> None:
        """Takes the line away, so that something else can be printed."""
        self._status_line.clear()

    async def _run(self) -> None:
        waited_s = 0.0
        interval_s = _INTERVAL_S if self._status_line.is_terminal else LOG_INTERVAL_S
        hinted = False
        while True:
            await asyncio.sleep(interval_s)
            waited_s += interval_s
            if not self._is_shown:
                continue
            progress = self.torrent.progress() if self.torrent else None
            if (
                not hinted
                and waited_s >= _LONELY_S
                and (progress is None or not progress.num_peers)
            ):
                hinted = True
                self.clear()
                output.note(
                    "no peers yet; --peer HOST:PORT names one that has the model, "
                    "--swarm NAME the private swarm that it may belong to"
                )
            self._status_line.show(self._line(progress))

    def _line(self, progress: "Progress | None") -> str:
        if progress is None or self.torrent is None:
            return f"{self.status} …"
        line = describe(progress)
        if self.file is not None:
            from baremetalrt.swarm.arrival import block_map

            line += f"  [{draw_blocks(block_map(self.torrent, self.file))}]"
        return line


def describe(progress: "Progress") -> str:
    """One line: how much, how fast, from how many, how long still."""
    done, total = progress.have_bytes, progress.wanted_bytes
    percent = 100 * done / total if total else 100.0
    line = f"{percent:5.1f} %  {format_bytes(done)} of {format_bytes(total)}"
    line += (
        f"  ↓ {format_bytes(progress.download_rate)}/s  ↑ {format_bytes(progress.upload_rate)}/s"
    )
    line += f"  {progress.num_peers} peers"
    if progress.eta_s is not None and done < total:
        line += f"  {format_duration(progress.eta_s)} left"
    return line


def format_duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 10 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def draw_blocks(here: Sequence[bool]) -> str:
    """A character per block, or per few of them: full, partly there, not there."""
    if not here:
        return ""
    each = -(-len(here) // _MAP_CHARS)
    groups = [here[i : i + each] for i in range(0, len(here), each)]
    return "".join("█" if all(g) else "▒" if any(g) else "·" for g in groups)
