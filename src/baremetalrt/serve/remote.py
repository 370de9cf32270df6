"""A model whose blocks run on peers: the route that is chosen, and who steps in when one is lost."""

import asyncio
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from baremetalrt.blocks.architectures import read_model
from baremetalrt.core.errors import BareMetalError, CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes
from baremetalrt.peers.caller import RemoteSpan
from baremetalrt.peers.chain import RemoteChain
from baremetalrt.peers.host import Host
from baremetalrt.peers.wire import Activations
from baremetalrt.placement.covering import cover
from baremetalrt.placement.planning import PlacedSpan, Placement, choose_route
from baremetalrt.placement.profiles import Demand, Sizes
from baremetalrt.serve.measuring import offered_bytes, profile_model
from baremetalrt.serve.neighbours import HERE, Neighbour, Neighbours, links_between
from baremetalrt.serve.node import Model, Node
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.sharing import host_profile, hosted_span
from baremetalrt.serve.torrents import content_id, span_needs
from baremetalrt.session.arriving import Source
from baremetalrt.weights.gguf import GGUFFile

_log = logging.getLogger("baremetalrt.peers")
# The context that predictions are made for: longer texts take a little longer on every route.
TYPICAL_CONTEXT: Final = 1024


@asynccontextmanager
async def model_over_peers(
    node: Node,
    opening: Opening,
    neighbours: Neighbours,
    *,
    source: Source | None = None,
    takes_over: bool = True,
    activations: Activations = "f32",
    on_event: Callable[[str], None] = lambda what: None,
) -> AsyncIterator[Model]:
    """A model whose blocks all run on peers, on the fastest route there is.

    A peer that is lost is replaced by others that host the same blocks, or else by this machine, if it
    has room for them, and the weights, and `takes_over`. Where not all weights are here, `source` knows
    which are. `activations`: how rows travel between peers, fewer bits for thin links; all but 32 bit
    change the answer a little.

    Raises:
        CapacityError: the peers do not host all of its blocks.
    """
    file = opening.file
    _, h = read_model(file)
    wanted = await asyncio.to_thread(content_id, file, neighbours.membership)
    known = await neighbours.look(model=wanted)
    route = hosted_route(file, wanted, known)
    if route is None:
        listed = ", ".join(
            map(str, sorted({s.blocks for one in known for s in one.spans_of(wanted)}))
        )
        raise CapacityError(
            f"the peers do not host all of the {h.num_blocks} blocks: {listed or 'none'}",
            code="route.incomplete",
            hint="`bmrt serve --share MODEL --share-blocks A:B` on another machine hosts the rest",
        )
    spans = _remote_spans(file, route.route, known, wanted)
    used = {span.id for span in spans}
    hosted = [s for one in known if one.id in used for s in one.spans if s.model == wanted]
    context = min([max(1, s.context) for s in hosted] + [h.training_context])
    context = min(context, node.config.context or context)
    understudy = _Understudy(node, opening, neighbours, wanted, context, source)

    async def replacement(lost: RemoteSpan, avoid: frozenset[str]) -> Sequence[RemoteSpan]:
        found = _cover(file, lost, await neighbours.ask(avoid), avoid)
        if not found and takes_over:
            found = await understudy.take_over(lost, avoid)
        # Looking around takes longer than asking those who are known.
        return found or _cover(file, lost, await neighbours.look(avoid, model=wanted), avoid)

    chain = RemoteChain(
        neighbours.channels,
        spans,
        replacement,
        row_width=h.vocabulary_size,
        activations=activations,
        on_event=on_event,
    )
    try:
        yield await asyncio.to_thread(node.load_route, opening, [chain], context)
    finally:
        await chain.close()
        await understudy.close()


def hosted_route(file: GGUFFile, model: str, known: Sequence[Neighbour]) -> Placement | None:
    """The fastest route over what peers host now, as far as their figures tell."""
    return choose_route(
        profile_model(file),
        [one.profile() for one in known],
        _servable(file, model, known),
        links_between(known),
        caller=HERE,
        demand=Demand(TYPICAL_CONTEXT),
    )


def _fitting(file: GGUFFile, spans: Iterable[RemoteSpan]) -> list[RemoteSpan]:
    """Those that the model has, whatever peers say of it."""
    _, h = read_model(file)
    return [span for span in spans if span.num_blocks == h.num_blocks]


def _remote_spans(
    file: GGUFFile, route: Sequence[PlacedSpan], known: Sequence[Neighbour], model: str
) -> list[RemoteSpan]:
    by_id = {one.id: one for one in known}
    return [
        next(
            replace(span, blocks=placed.blocks)
            for span in _fitting(file, by_id[placed.device].spans_of(model))
            if placed.blocks.is_within(span.blocks)
        )
        for placed in route
    ]


def _servable(
    file: GGUFFile, model: str, known: Sequence[Neighbour]
) -> list[tuple[str, BlockSpan]]:
    """What each peer can compute: what it hosts, and its parts that begin or end where others do."""
    hosted = {(one.id, s.blocks) for one in known for s in _fitting(file, one.spans_of(model))}
    cuts = sorted({cut for _, blocks in hosted for cut in (blocks.start, blocks.end)})
    spans = [BlockSpan(start, end) for start, end in itertools.combinations(cuts, 2)]
    return [(id_, part) for id_, blocks in hosted for part in spans if part.is_within(blocks)]


def _cover(
    file: GGUFFile, lost: RemoteSpan, others: Sequence[Neighbour], avoid: frozenset[str]
) -> Sequence[RemoteSpan]:
    """The fastest of those, alone or together, that host what was lost; none if blocks are missing."""
    able = [one for one in others if one.id not in avoid]
    spans = [(one.id, s.blocks) for one in able for s in _fitting(file, one.spans_of(lost.model))]
    placed = cover(
        profile_model(file),
        [one.profile() for one in able],
        spans,
        links_between(able).default,
        lost.blocks,
        demand=Demand(TYPICAL_CONTEXT),
    )
    return _remote_spans(file, placed or (), able, lost.model)


class _Understudy:
    """This machine as a peer like others: it takes over spans that nobody else has."""

    def __init__(
        self,
        node: Node,
        opening: Opening,
        neighbours: Neighbours,
        model: str,
        context: int,
        source: Source | None,
    ) -> None:
        self._node = node
        self._opening = opening
        self._identity = neighbours.identity
        self._model = model
        self._demand = Demand(context, node.config.max_sessions)
        self._source = source
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
        needed, room = sizes.held_bytes(lost.blocks), offered_bytes()
        if needed > room:
            raise CapacityError(
                f"{format_bytes(needed)} are needed, {format_bytes(room)} are free",
                code="share.no-room",
            )
        if self._source is not None and not self._source.has(span_needs(file, lost.blocks)):
            raise CapacityError("the weights are not here", code="share.no-weights")
        name, context = self._opening.stored.name, self._demand.context
        one = await hosted_span(self._node, file, name, self._model, lost.blocks, context)
        if self._host is None:
            self._host = Host(self._identity, host_profile(room, 0.0))
            # Where the peers of the route reach this machine.
            self._address = _own_address(lost.address)
            await self._host.listen(f"{self._address}:0")
            await self._stack.enter_async_context(self._host)
        self._host.hosted.append(one)
        address = f"{self._address}:{self._host.port}"
        return RemoteSpan(self._identity.id, address, self._model, lost.blocks, lost.num_blocks)

    async def close(self) -> None:
        await self._stack.aclose()


def _own_address(peer: str) -> str:
    """The address of this machine on the way to a peer; nothing is sent."""
    host, _, port = peer.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])
