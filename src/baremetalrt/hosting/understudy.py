"""This machine as a peer like others: it takes over spans of its own routes that nobody else has."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack

from baremetalrt.blocks.needs import span_needs
from baremetalrt.core.addresses import format_address, parse_address
from baremetalrt.core.errors import BareMetalError, CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes
from baremetalrt.devices.budget import Purpose
from baremetalrt.hosting.headers import HasWeights
from baremetalrt.hosting.hosted_span import host_profile, load_hosted
from baremetalrt.membership.identity import Identity
from baremetalrt.node.model_profile import profile_model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.peers.host import Host
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.placement.profiles import Demand, Sizes

_log = logging.getLogger("baremetalrt.peers")


class Understudy:
    """Hosts nothing until a span is lost."""

    def __init__(
        self,
        node: Node,
        opening: Opening,
        identity: Identity,
        model: str,
        context: int,
        has_weights: HasWeights | None,
    ) -> None:
        """`model` is the id of its content; `has_weights`: which are here, None: all of them."""
        self._node = node
        self._opening = opening
        self._identity = identity
        self._model = model
        self._demand = Demand(context, node.options.max_sessions)
        self._has_weights = has_weights
        self._stack = AsyncExitStack()
        self._host: Host | None = None
        self._taken: dict[BlockSpan, RemoteSpan] = {}
        self._lock = asyncio.Lock()

    async def take_over(self, lost: RemoteSpan, avoid: frozenset[str]) -> Sequence[RemoteSpan]:
        """Hosts the span here, if there is room and the weights are here; otherwise nothing."""
        if self._identity.id in avoid:
            return ()
        async with self._lock:
            if lost.blocks not in self._taken:
                try:
                    self._taken[lost.blocks] = await self._load(lost)
                except BareMetalError as error:
                    _log.warning("cannot take over blocks %s: %s", lost.blocks, error.message)
                    return ()
            return (self._taken[lost.blocks],)

    async def _load(self, lost: RemoteSpan) -> RemoteSpan:
        file = self._opening.file
        sizes = Sizes(profile_model(file), self._demand)
        needed = sizes.held_bytes(lost.blocks)
        room = self._node.ledger.room_for(Purpose.SHARING)
        if needed > room:
            raise CapacityError(
                f"{format_bytes(needed)} are needed, {format_bytes(room)} are free",
                code="share.no-room",
            )
        if self._has_weights and not self._has_weights(span_needs(file, lost.blocks)):
            raise CapacityError("the weights are not here", code="share.no-weights")
        name, context = self._opening.stored.name, self._demand.context
        one = await load_hosted(self._node, file, name, self._model, lost.blocks, context)
        if self._host is None:
            self._host = Host(self._identity, host_profile(room, None))
            # Where the peers of the route reach this machine.
            self._address = await _own_address(lost.address)
            await self._host.listen(format_address(self._address, 0))
            await self._stack.enter_async_context(self._host)
        self._host.hosted.append(one)
        address = format_address(self._address, self._host.port)
        return RemoteSpan(self._identity.id, address, self._model, lost.blocks, lost.num_blocks)

    async def close(self) -> None:
        await self._stack.aclose()


async def _own_address(peer: str) -> str:
    """The address of this machine on the way to a peer; nothing is sent."""
    host, port = parse_address(peer)
    loop = asyncio.get_running_loop()
    family, *_, where = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(where)
        return str(probe.getsockname()[0])
