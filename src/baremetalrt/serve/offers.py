"""A model that this machine offers to compute for peers: where its weights are, and how they are got."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from baremetalrt.blocks.architectures import read_model
from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import is_infohash
from baremetalrt.core.spans import BlockSpan
from baremetalrt.peers.compute_pb2 import HostedSpan
from baremetalrt.placement.joining import HostedBlocks, weakest_model
from baremetalrt.serve.fetching import FetchedModel, RemoteSource, fetch_header, fetch_span
from baremetalrt.serve.library import TorrentReference
from baremetalrt.serve.neighbours import Neighbour
from baremetalrt.serve.torrents import torrent_of
from baremetalrt.swarm.authority import Membership
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

_MAX_PORT: Final = 1 << 16


class Swarms(Protocol):
    """The torrents of this process."""

    async def running_client(self) -> SwarmClient:
        """The client, started if need be."""

    def keep(self, fetched: FetchedModel) -> None:
        """Something here computes with these weights: they are not to be evicted."""


@dataclass(frozen=True)
class Offer:
    """A model of which spans can be hosted. `fetched` is None where the whole file is here anyway."""

    stored: StoredModel
    file: GGUFFile
    metainfo: Metainfo
    fetched: FetchedModel | None

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def num_blocks(self) -> int:
        return read_model(self.file)[1].num_blocks

    async def fetch(
        self, swarms: Swarms | None, blocks: BlockSpan, others: Sequence[Neighbour]
    ) -> None:
        """Returns once the weights of a span are here; raises like `fetch_span`.

        `others` seed what they host: they are asked for it.
        """
        if self.fetched is not None and swarms is not None:
            client = await swarms.running_client()
            client.connect(self.fetched.torrent, _seeds(others, self.metainfo))
            await fetch_span(client, self.fetched.torrent, self.file, blocks)
            await client.save(self.fetched.torrent)


async def offer(
    model: StoredModel | RemoteSource, membership: Membership, swarms: Swarms | None
) -> Offer:
    """Opens a model to be hosted; of one that is not here, the header alone is fetched.

    Raises:
        UsageError, IntegrityError, CapacityError: see `GGUFFile.open` and `fetch_header`.
    """
    if isinstance(model, StoredModel):
        file = GGUFFile.open(model.path)
        read_model(file)
        _, metainfo = await asyncio.to_thread(torrent_of, file, membership)
        return Offer(model, file, metainfo, None)
    if swarms is None:
        raise UsageError(
            "a model that is still to be fetched needs its swarm", hint="drop --no-torrents"
        )
    fetched = await fetch_header(await swarms.running_client(), model)
    swarms.keep(fetched)
    return Offer(fetched.stored, fetched.file, fetched.torrent.metainfo, fetched)


def _seeded(neighbours: Sequence[Neighbour]) -> list[tuple[str, HostedSpan]]:
    """What peers host and say that they seed, each with the address where; not what cannot be."""
    return [
        (f"{one.host}:{span.source.port}", span)
        for one in neighbours
        for span in one.spans
        if is_infohash(span.source.torrent) and 0 < span.source.port < _MAX_PORT
    ]


def _seeds(others: Sequence[Neighbour], metainfo: Metainfo) -> list[str]:
    """Who seeds a torrent, of the peers that host some of it."""
    hashes = (metainfo.infohash_v1, metainfo.infohash_v2)
    return [peer for peer, span in _seeded(others) if span.source.torrent in hashes]


def hosted_by(neighbours: Sequence[Neighbour], model: str) -> list[HostedBlocks]:
    """What peers host of a model, and how fast they say they are."""
    return [
        HostedBlocks(BlockSpan(s.start, s.end), 1 / s.step_s)
        for one in neighbours
        for s in one.spans
        if s.model == model and s.step_s > 0
    ]


def needed_most(neighbours: Sequence[Neighbour], swarm: str) -> RemoteSource | None:
    """Of the models that peers host and seed, the one that stands worst; None if there is none."""
    models = {
        span.model: (span.num_blocks, hosted_by(neighbours, span.model))
        for _, span in _seeded(neighbours)
    }
    weakest = weakest_model(models)
    return None if weakest is None else source_of(neighbours, weakest, swarm)


def source_of(neighbours: Sequence[Neighbour], model: str, swarm: str) -> RemoteSource | None:
    """Who seeds a model, by its content or by its name; None if nobody says so."""
    seeded = [(peer, s.source) for peer, s in _seeded(neighbours) if model in (s.model, s.name)]
    if not seeded:
        return None
    first = seeded[0][1]
    return RemoteSource(
        TorrentReference(first.torrent),
        [peer for peer, source in seeded if source.torrent == first.torrent],
        swarm if first.is_private else None,
    )
