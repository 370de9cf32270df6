"""Models that this machine can compute for peers: where their weights are, and how they are got."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from baremetalrt.blocks.architectures import read_model
from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import is_infohash, is_magnet_or_hash
from baremetalrt.core.magnet_links import parse_magnet_link
from baremetalrt.core.spans import BlockSpan
from baremetalrt.hosting.neighbour import Neighbour
from baremetalrt.membership.authority import Membership
from baremetalrt.node.fetching import fetch_span
from baremetalrt.node.naming import find_torrent
from baremetalrt.peers.compute_pb2 import HostedSpan
from baremetalrt.placement.span_choice import HostedBlocks, weakest_model
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.fetching import FetchedModel, TorrentSource, fetch_header
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.swarm.obtaining import is_torrent_reference
from baremetalrt.swarm.publishing import find_torrent_of, torrent_of
from baremetalrt.weights.content import content_id
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

_MAX_PORT: Final = 1 << 16
_MIN_PREFIX_CHARS: Final = 8


class Swarms(Protocol):
    """The torrents of this process."""

    @property
    def client(self) -> SwarmClient | None:
        """The client, if it runs."""

    async def running_client(self) -> SwarmClient:
        """The client, started if need be."""

    def keep(self, fetched: FetchedModel) -> None:
        """Something here computes with these weights: they are not to be evicted."""


@dataclass(frozen=True)
class HostableModel:
    """A model of which spans can be hosted. `fetched` is None where the whole file is here anyway."""

    stored: StoredModel
    file: GGUFFile
    metainfo: Metainfo
    fetched: FetchedModel | None

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def content_id(self) -> str:
        return self.metainfo.content_id

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
            await client.connect(self.fetched.torrent, _seeds(others, self.metainfo))
            await fetch_span(client, self.fetched, blocks)
            await client.save(self.fetched.torrent)


async def open_hostable(
    model: StoredModel | TorrentSource, membership: Membership, swarms: Swarms | None
) -> HostableModel:
    """Opens a model to be hosted; of one that is not here, the header alone is fetched.

    One that is here and has no torrent gets one, for members alone: by it others fetch spans from here.

    Raises:
        UsageError, IntegrityError, CapacityError: see `GGUFFile.open` and `fetch_header`.
    """
    if isinstance(model, StoredModel):
        file = await asyncio.to_thread(GGUFFile.open, model.path)
        read_model(file)
        torrent = await asyncio.to_thread(torrent_of, file, membership)
        return HostableModel(model, file, torrent.metainfo, None)
    if swarms is None:
        raise UsageError(
            "a model that is still to be fetched needs its swarm", hint="drop --no-torrents"
        )
    fetched = await fetch_header(await swarms.running_client(), model)
    swarms.keep(fetched)
    return HostableModel(fetched.stored, fetched.file, fetched.torrent.metainfo, fetched)


def known_as(file: GGUFFile) -> str:
    """The id by which peers name the content of a model; asking leaves no trace. Blocks.

    Of a model that came by a torrent without v2 hashes, that torrent is its name.
    """
    known = find_torrent_of(file)
    return known.metainfo.content_id if known is not None else content_id(file)


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


def needed_most(neighbours: Sequence[Neighbour], swarm: str) -> TorrentSource | None:
    """Of the models that peers host and seed, the one that stands worst; None if there is none."""
    models = {
        span.model: (span.num_blocks, hosted_by(neighbours, span.model))
        for _, span in _seeded(neighbours)
    }
    weakest = weakest_model(models)
    return None if weakest is None else source_of(neighbours, weakest, swarm)


def source_of(neighbours: Sequence[Neighbour], model: str, swarm: str) -> TorrentSource | None:
    """Who seeds a model, by the id of its content; None if nobody says so."""
    seeded = [(peer, s.source) for peer, s in _seeded(neighbours) if s.model == model]
    if not seeded:
        return None
    first = seeded[0][1]
    return TorrentSource(
        first.torrent,
        [peer for peer, source in seeded if source.torrent == first.torrent],
        swarm if first.is_private else None,
    )


def hosted_as(neighbours: Sequence[Neighbour], reference: str) -> str | None:
    """The content that peers host under a name; also by (the beginning of) its id, or by its torrent.

    Raises:
        UsageError: peers call several models that.
    """
    is_link = is_magnet_or_hash(reference)
    names = parse_magnet_link(reference).infohashes if is_link else [reference]
    wanted = {name.lower() for name in names}
    beginnings = tuple(name for name in wanted if len(name) >= _MIN_PREFIX_CHARS)
    found = {
        span.model
        for one in neighbours
        for span in one.spans
        if wanted & {span.name.lower(), span.model.lower(), span.source.torrent.lower()}
        or span.model.startswith(beginnings)
    }
    if len(found) > 1:
        raise UsageError(
            f"peers call {len(found)} models {reference!r}: {', '.join(sorted(found))[:300]}",
            code="model.ambiguous",
            parameter="model",
            hint="name one by the beginning of its content: `bmrt ps --json` lists them",
        )
    return next(iter(found), None)


def with_seeds(
    neighbours: Sequence[Neighbour], own: TorrentSource, content: str, swarm: str
) -> TorrentSource | None:
    """Where a content is to be had: from peers that seed it, by whatever torrent, or as it was named.

    None: no peer seeds it, and what was named is no torrent.
    """
    found = source_of(neighbours, content, swarm)
    if found is None:
        is_torrent = is_torrent_reference(own.reference) or find_torrent(own.reference) is not None
        return own if is_torrent else None
    return TorrentSource(found.reference, [*own.peers, *found.peers], found.swarm)
