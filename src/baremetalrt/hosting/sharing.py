"""Spans that this machine hosts for the peers of its swarm."""

import asyncio
import logging
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final, Self

from baremetalrt.blocks.needs import require_blocks
from baremetalrt.core.errors import BareMetalError, CapacityError
from baremetalrt.core.network_reasons import describe_failure
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.tasks import Tasks, note_failure
from baremetalrt.core.units import format_bytes
from baremetalrt.devices.budget import Purpose
from baremetalrt.hosting.announcing import announce_on_dht
from baremetalrt.hosting.choice import MoveChoice, Situation, first_span, why_not_all
from baremetalrt.hosting.hostable import (
    HostableModel,
    Swarms,
    hosted_by,
    open_hostable,
)
from baremetalrt.hosting.hosted_span import host_profile, load_hosted
from baremetalrt.hosting.member_lists import lists_of_members
from baremetalrt.hosting.offering import offers_of
from baremetalrt.hosting.surroundings import Surroundings
from baremetalrt.membership.authority import Membership
from baremetalrt.membership.identity import identity_of
from baremetalrt.membership.renewing import Renewals
from baremetalrt.node.measurements import byte_s
from baremetalrt.node.model_profile import demand_of, profile_model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.published_lists import newer_than, refresh
from baremetalrt.peers.discovery import LocalNetwork, announced
from baremetalrt.peers.host import Host
from baremetalrt.peers.hosted import Hosted, SeededAt
from baremetalrt.placement.profiles import Sizes
from baremetalrt.placement.span_choice import HostedBlocks
from baremetalrt.swarm.fetching import TorrentSource
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.weights.store import StoredModel

_log = logging.getLogger("baremetalrt.peers")
# How often members are asked for news of lists that are followed here.
_LISTS_S: Final = 600.0


@dataclass(frozen=True)
class SharedModel:
    """What of a model to host; None means as much as there is room for, where it is needed most."""

    model: StoredModel | TorrentSource
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


@dataclass(eq=False)
class _Holding:
    """A span that is hosted now. `room_bytes` is what it, or another in its place, may take."""

    model: HostableModel
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
        # what is still to be hosted; None stands for whatever the swarm lacks
        self._to_host: list[SharedModel | None] = list(models) or [None]
        self._config = config
        self._swarms = swarms
        self._stack = AsyncExitStack()
        self._tasks = Tasks()
        self._holdings: list[_Holding] = []
        self._is_news = asyncio.Event()
        self._budget = self._left = 0
        self._chance = Random()

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
        self._budget = self._node.ledger.room_for(Purpose.SHARING) if given is None else given
        self._left = self._budget
        self._host = Host(
            identity_of(self._membership),
            host_profile(self._budget, None),
            allowed=config.allowed,
            renewals=Renewals(self._membership) if self._membership.is_creator else None,
            newer_lists=newer_than,
        )
        swarms = self._swarms
        if swarms is not None:
            self._host.offers = lambda: offers_of(swarms.client, self._membership.name)
        await self._host.listen(config.address)
        await self._stack.enter_async_context(self._host)
        await self._stack.enter_async_context(self._tasks)
        self._around = Surroundings(
            self._membership, self._host.identity.id, config.peers, config.network, self._swarms
        )
        if all(m is not None and isinstance(m.model, StoredModel) for m in self._to_host):
            await self._host_all()
        else:
            self._tasks.persist("nothing more is hosted", self._host_all)
        ask = partial(lists_of_members, via=config.peers)
        self._tasks.repeat("asking for lists", partial(refresh, ask), lambda: _LISTS_S)
        if self._config.network is not None:
            await self._announce_nearby(self._config.network)
        shown = config.address.rpartition(":")[0]
        _log.info("peer %s at %s:%d", self._host.identity.id, shown, self._host.port)
        if self._swarms is not None:
            announce = partial(
                announce_on_dht,
                self._swarms,
                self._membership,
                self._host.port,
                self._models_hosted,
                self._is_news,
            )
            self._tasks.persist("nobody is told on the DHT", announce)

    # telling others

    async def _announce_nearby(self, network: LocalNetwork) -> None:
        """Says on the local network where this machine answers, as soon as there is such a network."""

        async def announce() -> None:
            announcement = announced(network, self._host.identity.id, self._host.port)
            try:
                await self._stack.enter_async_context(announcement)
            except OSError as error:
                raise CapacityError(describe_failure(error), code="discovery.network") from error

        try:
            await announce()
        except CapacityError:
            self._tasks.persist("nobody is told on the local network", announce)

    def _models_hosted(self) -> set[str]:
        return {holding.hosted.model for holding in self._holdings}

    # what is hosted at first

    async def _host_all(self) -> None:
        """Hosts what is not hosted yet; one that fails is tried again when this is called again.

        Raises:
            UsageError, IntegrityError, CapacityError: of the first that failed; others may be hosted.
        """
        failed: BareMetalError | None = None
        for shared in list(self._to_host):
            try:
                await self._host_one(
                    shared or SharedModel(await self._around.whatever_is_needed(), None)
                )
                self._to_host.remove(shared)
            except BareMetalError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def _host_one(self, shared: SharedModel) -> None:
        left = self._left
        source = await self._around.with_seeds(shared.model)
        model = await open_hostable(source, self._membership, self._swarms)
        sizes = self._sizes(model)
        if shared.blocks is not None:
            require_blocks(model.num_blocks, shared.blocks)
        blocks = shared.blocks or await self._first_span(model, sizes, left)
        needed = sizes.held_bytes(blocks)
        if needed > left and self._config.budget_bytes is not None:
            raise CapacityError(
                f"blocks {blocks} of {model.name} need {format_bytes(needed)}, more than this "
                "machine gives",
                code="share.no-room",
                hint="give more with --share-memory, or host fewer with --share-blocks",
            )
        await self._begin(model, blocks, left, is_chosen=shared.blocks is None)
        self._left -= needed

    def _sizes(self, model: HostableModel) -> Sizes:
        return Sizes(profile_model(model.file), demand_of(model.file, self._node.options))

    async def _first_span(self, model: HostableModel, sizes: Sizes, room_bytes: int) -> BlockSpan:
        max_blocks = sizes.max_blocks(room_bytes)
        demand, is_given = (
            demand_of(model.file, self._node.options),
            bool(self._config.budget_bytes),
        )
        why = why_not_all(sizes, demand, model.num_blocks, room_bytes, is_given=is_given)
        if why is not None:
            _log.info("%s: %s", model.name, why)
        # Nobody needs to be asked about a model that fits, or about none.
        is_clear = max_blocks in (0, model.num_blocks)
        others = [] if is_clear else hosted_by(await self._around.others(), model.content_id)
        return first_span(model.num_blocks, max_blocks, others, room_bytes=room_bytes)

    async def _begin(
        self, model: HostableModel, blocks: BlockSpan, room_bytes: int, *, is_chosen: bool
    ) -> None:
        """Fetches, loads and hosts a span; what fails leaves nothing behind."""
        await self._fetch(model, blocks)
        seeded_at = await self._seeded_at(model.metainfo)
        context = demand_of(model.file, self._node.options).context
        hosted = await load_hosted(
            self._node, model.file, model.name, model.content_id, blocks, context
        )
        if model.fetched is not None:
            model.fetched.note_use()
        hosted.seeded_at = seeded_at
        holding = _Holding(model, hosted, room_bytes, is_chosen)
        self._host.hosted.append(hosted)
        self._holdings.append(holding)
        self._is_news.set()
        speeds = [
            byte_s(h.model.file, h.hosted.span.blocks, h.hosted.step_s) for h in self._holdings
        ]
        self._host.profile = host_profile(self._budget, statistics.median(speeds))
        _log.info("hosting blocks %s of %s: %.2f ms", blocks, model.name, 1000 * hosted.step_s)
        if len(blocks) == model.num_blocks:
            try:
                await asyncio.to_thread(self._answer_with, model, hosted)
            except BareMetalError as error:
                # Peers have no use for its vocabulary.
                _log.error("%s does not answer here: %s", model.name, error.message)
        if is_chosen and self._config.rebalance_s:
            self._tasks.start("looking where this machine is needed", self._keep_useful(holding))

    def _answer_with(self, model: HostableModel, hosted: Hosted) -> None:
        """A model that is whole here answers here, too: with the same span."""
        opening = Opening(model.stored, model.file)
        self._node.load_route(opening, [hosted.stage], hosted.context)

    async def _fetch(self, model: HostableModel, blocks: BlockSpan) -> None:
        if model.fetched is not None:
            _log.info("fetching blocks %s of %s", blocks, model.name)
            await model.fetch(self._swarms, blocks, await self._around.others())

    async def _seeded_at(self, metainfo: Metainfo) -> SeededAt | None:
        if self._swarms is None:
            return None
        client = await self._swarms.running_client()
        is_private = metainfo.needs_certificate
        port = client.secure_port if is_private else client.listen_port
        torrent = metainfo.infohash_v2 or metainfo.infohash_v1 or ""
        return SeededAt(torrent, port, is_private=is_private)

    # where it goes from there

    async def _keep_useful(self, holding: _Holding) -> None:
        """Moves a span, once, to where this machine is needed much more."""
        choice = MoveChoice(self._config.rebalance_s, time.monotonic(), self._chance)
        while holding in self._holdings:
            await asyncio.sleep(max(0.0, choice.look_at_s - time.monotonic()))
            try:
                situation = await self._situation(holding)
                target = choice.look(time.monotonic(), situation, self._chance)
                if target is not None:
                    await self._move(holding, target)
            except BareMetalError as error:
                _log.error("cannot move: %s", error.message)
            except Exception as error:
                note_failure("looking where this machine is needed", error)

    async def _situation(self, holding: _Holding) -> Situation:
        model, hosted = holding.model, holding.hosted
        return Situation(
            num_blocks=model.num_blocks,
            max_blocks=self._sizes(model).max_blocks(holding.room_bytes),
            mine=HostedBlocks(hosted.span.blocks, 1 / hosted.step_s),
            others=hosted_by(await self._around.others(), model.content_id),
            num_texts=self._host.num_texts(hosted),
        )

    async def _move(self, holding: _Holding, target: BlockSpan) -> None:
        """Hosts another span instead; not if a text has come meanwhile."""
        model, hosted = holding.model, holding.hosted
        before = hosted.span.blocks
        _log.info("moving from blocks %s of %s to %s", before, model.name, target)
        # While it is fetched, the old span is still hosted.
        await self._fetch(model, target)
        if self._host.num_texts(hosted):
            return
        self._host.hosted.remove(hosted)
        self._holdings.remove(holding)
        await asyncio.to_thread(self._node.drop, hosted.span)
        begin = partial(self._begin, model, room_bytes=holding.room_bytes, is_chosen=True)
        try:
            await begin(target)
        except Exception:
            # For as long as it takes: it has nothing else to do.
            self._tasks.persist(f"nothing of {model.name} is hosted", partial(begin, before))
            raise
