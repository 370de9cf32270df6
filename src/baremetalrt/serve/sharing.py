"""Spans that this machine hosts for the peers of its swarm."""

import asyncio
import logging
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from baremetalrt import __version__
from baremetalrt.blocks.architectures import read_model
from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes
from baremetalrt.native.library import load_library
from baremetalrt.peers.discovery import LocalNetwork, announced
from baremetalrt.peers.host import Host, Hosted, HostProfile
from baremetalrt.placement.joining import HostedBlocks, choose_span
from baremetalrt.placement.profiles import Sizes
from baremetalrt.serve.measuring import (
    byte_s,
    decode_step_s,
    demand_of,
    offered_bytes,
    profile_model,
)
from baremetalrt.serve.neighbours import Neighbour, Neighbours, identity_of
from baremetalrt.serve.node import Node
from baremetalrt.serve.torrents import publish_file
from baremetalrt.swarm import catalog
from baremetalrt.swarm.authority import Membership
from baremetalrt.swarm.catalog import FileSignature
from baremetalrt.swarm.publishing import PublishOptions
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

_log = logging.getLogger("baremetalrt.peers")


@dataclass(frozen=True)
class SharedSpan:
    """What of a model to host; None means as much as there is room for, where it is needed most."""

    stored: StoredModel
    blocks: BlockSpan | None

    @cached_property
    def file(self) -> GGUFFile:
        return GGUFFile.open(self.stored.path)


@dataclass(frozen=True, kw_only=True)
class SharingConfig:
    """Where to listen (`HOST:PORT`), what to give, and how others are found and told.

    `budget_bytes`: memory for weights, keys and values; None means most of what is free.
    `network`: where to announce; None means nowhere. `peers`: addresses to ask besides.
    """

    address: str
    budget_bytes: int | None = None
    network: LocalNetwork | None = None
    peers: Sequence[str] = ()


def model_id(file: GGUFFile) -> str:
    """The info-hash that names the content of a file; the file is hashed if it is not known yet."""
    paths = [path.absolute() for path in file.paths]
    for entry in catalog.entries():
        record = entry.record()
        unchanged = record.is_complete and list(entry.model_paths(record)) == paths
        if unchanged and record.signatures == [FileSignature.of(p) for p in paths]:
            return entry.id
    return publish_file(file.path, PublishOptions())[0].id


def host_profile(budget_bytes: int, seconds_per_byte: float) -> HostProfile:
    """What this machine says of itself."""
    library = load_library()
    build = f"{library.origin}, ggml {library.ggml_version}"
    return HostProfile(__version__, build, budget_bytes, seconds_per_byte)


async def hosted_span(
    node: Node, file: GGUFFile, name: str, blocks: BlockSpan, context: int
) -> Hosted:
    """Loads a span for peers, and measures it."""

    def work() -> Hosted:
        span, stage = node.host(file, blocks, context)
        return Hosted(model_id(file), name, span, stage, decode_step_s(span))

    return await asyncio.to_thread(work)


class Sharing:
    """Hosts spans on the event loop of the server. Use as an async context manager."""

    def __init__(
        self,
        node: Node,
        membership: Membership,
        spans: Sequence[SharedSpan],
        config: SharingConfig,
    ) -> None:
        self._node = node
        self._membership = membership
        self._spans = spans
        self._config = config
        self._stack = AsyncExitStack()
        for shared in spans:
            _, h = read_model(shared.file)
            if shared.blocks is not None and shared.blocks.end > h.num_blocks:
                raise UsageError(
                    f"the model has blocks 0:{h.num_blocks}, not {shared.blocks}",
                    code="blocks.range",
                    parameter="blocks",
                )

    async def __aenter__(self) -> Self:
        """Loads the spans and begins to answer; raises `UsageError` when the port is taken."""
        config = self._config
        budget = offered_bytes() if config.budget_bytes is None else config.budget_bytes
        left, hosted = budget, []
        for shared in self._spans:
            file, name = shared.file, shared.stored.name
            demand = demand_of(file, self._node.config)
            sizes = Sizes(profile_model(file), demand)
            blocks = shared.blocks or await self._choose(file, sizes, left)
            left -= sizes.held_bytes(blocks)
            if left < 0 and config.budget_bytes is not None:
                raise CapacityError(
                    f"blocks {blocks} of {name} need {format_bytes(sizes.held_bytes(blocks))}, more "
                    "than this machine gives",
                    code="share.no-room",
                    hint="give more with --share-memory, or host fewer with --share-blocks",
                )
            one = await hosted_span(self._node, file, name, blocks, demand.context)
            hosted.append(one)
            _log.info("hosting blocks %s of %s: %.2f ms", blocks, name, 1000 * one.step_s)
        speeds = [
            byte_s(s.file, h.span.blocks, h.step_s)
            for s, h in zip(self._spans, hosted, strict=True)
        ]
        host = Host(identity_of(self._membership), host_profile(budget, statistics.median(speeds)))
        host.hosted.extend(hosted)
        await host.listen(config.address)
        await self._stack.enter_async_context(host)
        if config.network is not None:
            try:
                await self._stack.enter_async_context(
                    announced(config.network, host.identity.id, host.port)
                )
            except OSError as error:
                _log.warning("nobody is told on the local network: %s", error)
        shown = config.address.rpartition(":")[0]
        _log.info("peer %s at %s:%d", host.identity.id, shown, host.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _choose(self, file: GGUFFile, sizes: Sizes, room_bytes: int) -> BlockSpan:
        """The whole model, or else the span that the swarm needs most."""
        _, h = read_model(file)
        max_blocks = sizes.max_blocks(room_bytes)
        if max_blocks == h.num_blocks:
            return BlockSpan(0, h.num_blocks)
        if max_blocks == 0:
            raise CapacityError(
                f"there is no room for a block: {format_bytes(room_bytes)} are left",
                code="share.no-room",
                hint="give more with --share-memory",
            )
        config = self._config
        async with Neighbours(self._membership, config.peers, config.network) as neighbours:
            hosted = hosted_by(await neighbours.look(), await asyncio.to_thread(model_id, file))
        # How fast this machine is matters little for where it is needed.
        typical = statistics.median([one.tokens_per_s for one in hosted] or [1.0])
        return choose_span(h.num_blocks, hosted, max_blocks=max_blocks, tokens_per_s=typical)


def hosted_by(neighbours: Sequence[Neighbour], model: str) -> list[HostedBlocks]:
    """What peers host of a model, and how fast they say they are."""
    return [
        HostedBlocks(BlockSpan(s.start, s.end), 1 / s.step_s)
        for one in neighbours
        for s in one.spans
        if s.model == model and s.step_s > 0
    ]
