"""Spans of a model that are fetched to be computed with, and no more of the model than that."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.core.units import MIB
from baremetalrt.serve.library import TorrentReference
from baremetalrt.serve.torrents import obtain, span_needs, whole_model
from baremetalrt.swarm.arrival import wait_for_header
from baremetalrt.swarm.catalog import Record
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.torrent import Torrent
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

# Most headers are shorter; where one is not, the rest of it is asked for as well.
_HEADER_BYTES: Final = 4 * MIB


@dataclass(frozen=True)
class RemoteSource:
    """Where a model is to be had: what names its torrent, who seeds it, and in which private swarm."""

    reference: TorrentReference
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


async def fetch_header(client: SwarmClient, source: RemoteSource) -> FetchedModel:
    """The header of a model, and nothing else of it; raises like `obtain` and `SwarmClient.add`."""
    entry, peers = await obtain(
        client, source.reference.reference, peers=source.peers, swarm=source.swarm
    )
    torrent = await client.find_or_add(entry, peers=peers)
    if not torrent.on_disk:
        # Nobody asked for its blocks yet: no later run is to fetch them unasked.
        await _remember(client, torrent, [])
    return FetchedModel(torrent, await open_header(torrent))


async def open_header(torrent: Torrent) -> GGUFFile:
    """Opens the header of a torrent that runs, and wants no more of it for now."""
    # Hardly more than the header: but with nothing left to want, peers would hang up.
    torrent.want_only(
        ByteRange(i, 0, min(_HEADER_BYTES, f.part.num_bytes))
        for i, f in enumerate(torrent.metainfo.files)
    )
    return await wait_for_header(torrent)


async def fetch_span(
    client: SwarmClient, torrent: Torrent, file: GGUFFile, blocks: BlockSpan | None
) -> None:
    """Fetches what a span needs to run, or the whole model, and remembers that it is wanted.

    Raises:
        UsageError: the model has fewer blocks.
        CapacityError: the disk is full or failing.
    """
    needs = span_needs(file, blocks) if blocks else whole_model(torrent.metainfo)
    await _remember(client, torrent, list(blocks) if blocks else None)
    torrent.want_only(needs)
    await torrent.finished()


async def _remember(client: SwarmClient, torrent: Torrent, wanted: list[int] | None) -> None:
    def change(record: Record) -> None:
        record.wanted = wanted

    await client.update_record(torrent, change)


def note_use(fetched: FetchedModel) -> None:
    """Counts a use, by which eviction chooses."""
    fetched.torrent.entry.note_use(len(fetched.file.blocks), time.time())
