"""Spans that this machine hosts for the peers of its swarm."""

import asyncio
import logging
import random
import statistics
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

from baremetalrt import __version__
from baremetalrt.core.errors import BareMetalError, CapacityError, UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes
from baremetalrt.native.library import load_library
from baremetalrt.peers.discovery import LocalNetwork, announced
from baremetalrt.peers.host import Host, Hosted, HostProfile, SeededAt
from baremetalrt.placement.joining import HostedBlocks, choose_span, should_move
from baremetalrt.placement.profiles import Sizes
from baremetalrt.serve.fetching import RemoteSource, note_use
from baremetalrt.serve.measuring import (
    byte_s,
    decode_step_s,
    demand_of,
    offered_bytes,
    profile_model,
)
from baremetalrt.serve.meeting import beyond, meeting_point
from baremetalrt.serve.neighbours import Neighbour, Neighbours, identity_of
from baremetalrt.serve.node import Node
from baremetalrt.serve.offers import Offer, Swarms, hosted_by, needed_most, offer
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.torrents import require_blocks
from baremetalrt.swarm.authority import Membership
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel, default_model

_log = logging.getLogger("baremetalrt.peers")
# Two machines that see the same gap do not both go there: each looks again after a while of its own.
_SECOND_LOOK_SHARE: Final = 0.25
# Nodes of the DHT forget within half an hour.
_FIRST_ANNOUNCE_S: Final = 2.0
_ANNOUNCE_S: Final = 600.0


@dataclass(frozen=True)
class SharedModel:
    """What of a model to host; None means as much as there is room for, where it is needed most."""

    model: StoredModel | RemoteSource
    blocks: BlockSpan | None


@dataclass(frozen=True, kw_only=True)
class SharingConfig:
    """Where to listen (`HOST:PORT`), what to give, and how others are found and told.

    `budget_bytes`: memory for weights, keys and values; None means most of what is free.
    `network`: where to announce; None means nowhere. `peers`: addresses to ask besides. `allowed`: the
    only peers that are answered, None for every member. `rebalance_s`: how often to look whether another
    span needs this machine more; 0 for never.
    """

    address: str
    budget_bytes: int | None = None
    network: LocalNetwork | None = None
    peers: Sequence[str] = ()
    allowed: frozenset[str] | None = None
    rebalance_s: float = 60.0


def host_profile(budget_bytes: int, seconds_per_byte: float) -> HostProfile:
    """What this machine says of itself."""
    library = load_library()
    build = f"{library.origin}, ggml {library.ggml_version}"
    return HostProfile(__version__, build, budget_bytes, seconds_per_byte)


async def hosted_span(
    node: Node, file: GGUFFile, name: str, model: str, blocks: BlockSpan, context: int
) -> Hosted:
    """Loads a span for peers, and measures it. `model` is the id of its content."""

    def work() -> Hosted:
        span, stage = node.host(file, blocks, context)
        return Hosted(model, name, span, stage, decode_step_s(span), context)

    return await asyncio.to_thread(work)


@dataclass
class _Held:
    """A span that is hosted now. `room_bytes` is what it, or another in its place, may take."""

    offer: Offer
    hosted: Hosted
    room_bytes: int
    is_chosen: bool


class Sharing:
    """Hosts spans on the event loop of the server. Use as an async context manager."""

    def __init__(
        self,
        node: Node,
        membership: Membership,
        models: Sequence[SharedModel],
        config: SharingConfig,
        swarms: Swarms | None,
    ) -> None:
        """Without `models`: whatever the swarm lacks, or else the embedded default."""
        self._node = node
        self._membership = membership
        self._models = models
        self._config = config
        self._swarms = swarms
        self._stack = AsyncExitStack()
        self._held: list[_Held] = []
        self._budget = 0

    async def __aenter__(self) -> Self:
        """Begins to answer, and to load; what has to be fetched is hosted once it has come.

        Raises:
            UsageError: the port is taken, or the model has no such blocks.
            CapacityError: there is no room.
        """
        try:
            await self._begin_sharing()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _begin_sharing(self) -> None:
        config = self._config
        given = config.budget_bytes
        self._budget = offered_bytes() if given is None else given
        self._host = Host(
            identity_of(self._membership), host_profile(self._budget, 0.0), allowed=config.allowed
        )
        await self._host.listen(config.address)
        await self._stack.enter_async_context(self._host)
        if all(isinstance(m.model, StoredModel) for m in self._models) and self._models:
            await self._host_all()
        else:
            self._spawn(self._host_later())
        if config.network is not None:
            try:
                await self._stack.enter_async_context(
                    announced(config.network, self._host.identity.id, self._host.port)
                )
            except OSError as error:
                _log.warning("nobody is told on the local network: %s", error)
        shown = config.address.rpartition(":")[0]
        _log.info("peer %s at %s:%d", self._host.identity.id, shown, self._host.port)
        if self._swarms is not None:
            self._spawn(self._announce_beyond(self._swarms))
        if config.rebalance_s:
            self._spawn(self._keep_useful())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)

    async def _announce_beyond(self, swarms: Swarms) -> None:
        """Says on the DHT where this machine answers: often at first, while hardly any node is known."""
        dht = (await swarms.running_client()).dht
        if not dht.is_on:
            return
        dht.map_port(self._host.port)
        pause_s = _FIRST_ANNOUNCE_S
        while True:
            models = {"", *(held.hosted.model for held in self._held)}
            for model in sorted(models):
                dht.announce(meeting_point(self._membership, model), self._host.port)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _ANNOUNCE_S)

    # what is hosted at first

    async def _host_later(self) -> None:
        try:
            await self._host_all()
        except BareMetalError as error:
            _log.error("nothing is hosted: %s (%s)", error.message, error.hint or error.code)

    async def _host_all(self) -> None:
        left = self._budget
        for shared in self._models or [await self._whatever_is_needed()]:
            one = await offer(shared.model, self._membership, self._swarms)
            sizes = self._sizes(one)
            if shared.blocks is not None:
                require_blocks(one.num_blocks, shared.blocks)
            blocks = shared.blocks or await self._choose(one, sizes, left)
            needed = sizes.held_bytes(blocks)
            if needed > left and self._config.budget_bytes is not None:
                raise CapacityError(
                    f"blocks {blocks} of {one.name} need {format_bytes(needed)}, more than this "
                    "machine gives",
                    code="share.no-room",
                    hint="give more with --share-memory, or host fewer with --share-blocks",
                )
            await self._begin(one, blocks, left, is_chosen=shared.blocks is None)
            left -= needed

    async def _whatever_is_needed(self) -> SharedModel:
        needed = needed_most(await self._others(), self._membership.name) if self._swarms else None
        model = needed or default_model()
        if model is None:
            raise UsageError("there is nothing to host", hint="name a model")
        return SharedModel(model, None)

    async def _others(self) -> list[Neighbour]:
        config = self._config
        look = None
        if self._swarms is not None:
            look = beyond(await self._swarms.running_client(), self._membership)
        async with Neighbours(self._membership, config.peers, config.network, look) as neighbours:
            found = await neighbours.look()
        return [one for one in found if one.id != self._host.identity.id]

    def _sizes(self, one: Offer) -> Sizes:
        return Sizes(profile_model(one.file), demand_of(one.file, self._node.config))

    async def _choose(self, one: Offer, sizes: Sizes, room_bytes: int) -> BlockSpan:
        """The whole model, or else the span that the swarm needs most."""
        max_blocks = sizes.max_blocks(room_bytes)
        if max_blocks == one.num_blocks:
            return BlockSpan(0, one.num_blocks)
        if max_blocks == 0:
            raise CapacityError(
                f"there is no room for a block: {format_bytes(room_bytes)} are left",
                code="share.no-room",
                hint="give more with --share-memory",
            )
        hosted = hosted_by(await self._others(), one.metainfo.content_id)
        # How fast this machine is matters little for where it is needed.
        typical = statistics.median([h.tokens_per_s for h in hosted] or [1.0])
        return choose_span(one.num_blocks, hosted, max_blocks=max_blocks, tokens_per_s=typical)

    async def _begin(
        self, one: Offer, blocks: BlockSpan, room_bytes: int, *, is_chosen: bool
    ) -> None:
        """Fetches, loads and hosts a span."""
        await self._fetch(one, blocks)
        context = demand_of(one.file, self._node.config).context
        hosted = await hosted_span(
            self._node, one.file, one.name, one.metainfo.content_id, blocks, context
        )
        if one.fetched is not None:
            note_use(one.fetched)
        hosted.seeded_at = await self._seeded_at(one.metainfo)
        self._host.hosted.append(hosted)
        self._held.append(_Held(one, hosted, room_bytes, is_chosen))
        speeds = [byte_s(h.offer.file, h.hosted.span.blocks, h.hosted.step_s) for h in self._held]
        self._host.profile = host_profile(self._budget, statistics.median(speeds))
        _log.info("hosting blocks %s of %s: %.2f ms", blocks, one.name, 1000 * hosted.step_s)
        if len(blocks) == one.num_blocks:
            await asyncio.to_thread(self._answer_with, one, hosted)

    def _answer_with(self, one: Offer, hosted: Hosted) -> None:
        """A model that is whole here answers here, too: with the same span."""
        opening = Opening(one.stored, one.file)
        self._node.load_route(opening, [hosted.stage], hosted.context)

    async def _fetch(self, one: Offer, blocks: BlockSpan) -> None:
        if one.fetched is not None:
            _log.info("fetching blocks %s of %s", blocks, one.name)
            await one.fetch(self._swarms, blocks, await self._others())

    async def _seeded_at(self, metainfo: Metainfo) -> SeededAt | None:
        if self._swarms is None:
            return None
        client = await self._swarms.running_client()
        is_private = metainfo.needs_certificate
        port = client.secure_port if is_private else client.listen_port
        torrent = metainfo.infohash_v2 or metainfo.infohash_v1 or ""
        return SeededAt(torrent, port, is_private=is_private)

    # where it goes from there

    async def _keep_useful(self) -> None:
        """Moves to spans that need this machine much more than those it hosts."""
        while True:
            await asyncio.sleep(self._config.rebalance_s * random.uniform(0.75, 1.25))
            for held in [h for h in self._held if h.is_chosen]:
                try:
                    await self._reconsider(held)
                except BareMetalError as error:
                    _log.error("cannot move: %s", error.message)

    async def _reconsider(self, held: _Held) -> None:
        target = await self._better_span(held)
        if target is None:
            return
        await asyncio.sleep(self._config.rebalance_s * random.uniform(0, _SECOND_LOOK_SHARE))
        if await self._better_span(held) != target or self._host.num_texts(held.hosted):
            return
        one, before = held.offer, held.hosted.span.blocks
        _log.info("moving from blocks %s of %s to %s", before, one.name, target)
        # While it is fetched, the old span is still hosted.
        await self._fetch(one, target)
        if self._host.num_texts(held.hosted):
            return
        self._host.hosted.remove(held.hosted)
        self._held.remove(held)
        await asyncio.to_thread(self._node.drop, held.hosted.span)
        try:
            await self._begin(one, target, held.room_bytes, is_chosen=True)
        except BareMetalError:
            await self._begin(one, before, held.room_bytes, is_chosen=True)
            raise

    async def _better_span(self, held: _Held) -> BlockSpan | None:
        one = held.offer
        max_blocks = self._sizes(one).max_blocks(held.room_bytes)
        if max_blocks >= one.num_blocks:
            return None
        mine = HostedBlocks(held.hosted.span.blocks, 1 / held.hosted.step_s)
        others = hosted_by(await self._others(), one.metainfo.content_id)
        return should_move(one.num_blocks, others, mine, max_blocks=max_blocks)
