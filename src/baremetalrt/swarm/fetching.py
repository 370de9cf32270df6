"""A model that is being fetched: its header first, which says where its blocks lie."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.spans import ByteRange
from baremetalrt.core.units import KIB, MIB
from baremetalrt.swarm.catalog import Record
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.swarm.obtaining import obtain
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.swarm.torrent import Torrent
from baremetalrt.weights.gguf import HEADER_LIMIT_BYTES, GGUFFile
from baremetalrt.weights.store import StoredModel

_FIRST_BYTES: Final = 256 * KIB
# Most headers are shorter; where one is not, the rest of it is asked for as well.
_HEADER_BYTES: Final = 4 * MIB


@dataclass(frozen=True)
class TorrentSource:
    """Where a model is to be had: what names its torrent, who seeds it, and in which private swarm."""

    reference: str
    peers: Sequence[str] = ()
    swarm: str | None = None


@dataclass(frozen=True)
class FetchedModel:
    """A model of which the header is here, and blocks as they are asked for."""

    torrent: Torrent
    file: GGUFFile

    @property
    def stored(self) -> StoredModel:
        return StoredModel(self.torrent.metainfo.name, self.file.path, is_default=False)

    def note_use(self) -> None:
        """Counts a use, by which eviction chooses."""
        self.torrent.entry.note_use(len(self.file.blocks), time.time())


async def fetch_header(
    client: SwarmClient,
    source: TorrentSource,
    on_torrent: Callable[[Torrent, GGUFFile | None], None] = lambda torrent, file: None,
) -> FetchedModel:
    """The header of a model, and nothing else of it; raises like `obtain` and `SwarmClient.add`.

    `on_torrent` hears of the torrent as soon as it runs.
    """
    stored, peers = await obtain(client, source.reference, peers=source.peers, swarm=source.swarm)
    torrent = await client.find_or_add(stored, peers=peers)
    # One that runs already is told of them, too.
    await client.connect(torrent, peers)
    on_torrent(torrent, None)
    if not torrent.on_disk:
        # Nobody asked for its blocks yet: no later run is to fetch them unasked.
        await remember_wanted(client, torrent, [])
    return FetchedModel(torrent, await open_header(torrent))


async def open_header(torrent: Torrent) -> GGUFFile:
    """Opens the header of a torrent that runs, and wants no more of it for now."""
    # Hardly more than the header: but with nothing left to want, peers would hang up.
    torrent.want_only(_beginnings(torrent.metainfo, _HEADER_BYTES))
    return await wait_for_header(torrent)


async def wait_for_header(torrent: Torrent) -> GGUFFile:
    """The header of the model, as soon as enough of each part is there.

    How long a header is, only reading it tells: the beginning that is asked for doubles until it holds
    one.

    Raises:
        IntegrityError: the file is not GGUF, or its tensors lie outside of the file.
        CapacityError: what arrives cannot be written.
    """
    metainfo, path = torrent.metainfo, torrent.entry.model_paths[0]
    longest = _longest_header(metainfo)
    size = _FIRST_BYTES
    while True:
        await torrent.wait_for(_beginnings(metainfo, size))
        try:
            file = await asyncio.to_thread(GGUFFile.open, path, limit_bytes=size)
        except IntegrityError as error:
            if error.code != "gguf.header" or size >= longest:
                raise
            size *= 2
            continue
        if file.missing(t.byte_range for t in file.tensors.values()):
            raise IntegrityError(
                f"{metainfo.name}: its header describes tensors that lie outside of the file",
                code="gguf.truncated",
                source=metainfo.id,
                hint="whoever published it published an incomplete file",
            )
        return file


def header_on_disk(stored: StoredTorrent) -> GGUFFile | None:
    """The header of a torrent that need not run, if it was verified and is on disk. Blocks.

    Raises:
        IntegrityError: what was verified is not GGUF.
    """
    metainfo, have = stored.metainfo, stored.claimed
    size = _FIRST_BYTES
    while metainfo.pieces.contains(_beginnings(metainfo, size), have):
        try:
            return GGUFFile.open(stored.entry.model_paths[0], limit_bytes=size)
        except IntegrityError as error:
            if error.code != "gguf.header" or size >= _longest_header(metainfo):
                raise
            size *= 2
    return None


def _longest_header(metainfo: Metainfo) -> int:
    return min(HEADER_LIMIT_BYTES, max(f.part.num_bytes for f in metainfo.files))


def blocks_here(torrent: Torrent, file: GGUFFile) -> Sequence[bool]:
    """For every block of a torrent that runs, whether it is here."""
    return [torrent.has(block.byte_ranges) for block in file.blocks]


async def remember_wanted(client: SwarmClient, torrent: Torrent, wanted: list[int] | None) -> None:
    """Writes down which blocks are to be fetched without being asked, None for all of them."""

    def change(record: Record) -> None:
        record.wanted = wanted

    await client.update_record(torrent, change)


def _beginnings(metainfo: Metainfo, num_bytes: int) -> list[ByteRange]:
    """The beginning of every part."""
    return [ByteRange(i, 0, min(num_bytes, f.part.num_bytes)) for i, f in enumerate(metainfo.files)]
