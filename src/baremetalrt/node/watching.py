"""Tells how a torrent is doing while somebody waits for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from baremetalrt.core.tasks import Tasks
from baremetalrt.node.events import Asking, Checking, Fetching, OnEvent
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.fetching import blocks_here
from baremetalrt.swarm.torrent import Torrent
from baremetalrt.weights.gguf import GGUFFile

_INTERVAL_S: Final = 0.5


class Watch:
    """What is told: at first `waiting`, then how a torrent does, and its blocks, once they are known."""

    def __init__(self, reference: str) -> None:
        self.waiting: Asking | Checking = Asking(reference)
        self.torrent: Torrent | None = None
        self.file: GGUFFile | None = None

    def follow(self, torrent: Torrent, file: GGUFFile | None) -> None:
        self.torrent, self.file = torrent, file

    @property
    def arrival(self) -> Fetching | None:
        """How the torrent is now, by libtorrent's last word."""
        return fetching(self.torrent, self.file) if self.torrent else None

    def event(self) -> Asking | Checking | Fetching:
        """What there is to tell now."""
        return self.arrival or self.waiting


@asynccontextmanager
async def watched(client: SwarmClient, reference: str, on_event: OnEvent) -> AsyncIterator[Watch]:
    """Tells twice a second how the torrent is doing that the watch follows."""
    watch = Watch(reference)

    async def tell() -> None:
        if watch.torrent is not None:
            await client.refresh()
        on_event(watch.event())

    async with Tasks() as tasks:
        tasks.repeat("watching a torrent", tell, lambda: _INTERVAL_S)
        yield watch


def fetching(torrent: Torrent, file: GGUFFile | None) -> Fetching:
    """A torrent as whoever shows it wants to know it."""
    progress = torrent.progress()
    return Fetching(
        name=torrent.metainfo.name,
        wanted_bytes=progress.wanted_bytes,
        have_bytes=progress.have_bytes,
        download_rate=progress.download_rate,
        upload_rate=progress.upload_rate,
        num_peers=progress.num_peers,
        left_s=progress.eta_s,
        blocks_here=tuple(blocks_here(torrent, file)) if file else None,
        is_complete=torrent.is_complete,
        last_piece_at=torrent.last_piece_at,
    )
