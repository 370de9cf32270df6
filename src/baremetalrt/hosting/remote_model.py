"""A model whose blocks run on peers: opened on the fastest route, or compared with this machine."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from baremetalrt.blocks.architectures import read_model
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.tasks import in_thread
from baremetalrt.hosting.events import OnEvent
from baremetalrt.hosting.hostable import known_as, source_of
from baremetalrt.hosting.neighbours import (
    HERE,
    Neighbour,
    Neighbours,
    links_between,
    local_network,
    profiles_of,
)
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.hosting.rendezvous import dht_lookup
from baremetalrt.hosting.understudy import Understudy
from baremetalrt.membership.authority import the_membership
from baremetalrt.node.events import Asking, Loaded
from baremetalrt.node.measurements import Measure, measure_here, profile_model
from baremetalrt.node.model import Model
from baremetalrt.node.naming import TorrentReference, find_torrent
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.peers.activations import Activations
from baremetalrt.peers.chain import RemoteChain
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.placement.covering import cover
from baremetalrt.placement.planning import PlacedSpan, Placement, choose_route
from baremetalrt.placement.profiles import Demand, Sizes
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.fetching import FetchedModel, TorrentSource, fetch_header
from baremetalrt.swarm.obtaining import is_torrent_reference
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.weights.gguf import GGUFFile

# The context that predictions are made for: longer texts take a little longer on every route.
TYPICAL_CONTEXT: Final = 1024
# Other machines may fail, and have work of their own.
_WORTH_A_ROUTE: Final = 0.8


@asynccontextmanager
async def find_neighbours(
    route: RouteOptions, swarm: SwarmOptions
) -> AsyncIterator[tuple[Neighbours, SwarmClient | None]]:
    """The peers that the options name, or, where they name none, those of the local network.

    With a route over the whole swarm also those that the DHT names, and the client that asks it.
    """
    membership = await asyncio.to_thread(the_membership, swarm.swarm)
    async with AsyncExitStack() as stack:
        client = lookup = None
        if route.kind == "swarm":
            client = SwarmClient(swarm.config(), memberships=[membership])
            lookup = dht_lookup(await stack.enter_async_context(client), membership)
        network = None if route.via else local_network(membership)
        neighbours = Neighbours(membership, route.via, network, lookup)
        yield await stack.enter_async_context(neighbours), client


@asynccontextmanager
async def open_remote(
    node: Node,
    model: Opening | TorrentReference,
    route: RouteOptions,
    swarm: SwarmOptions,
    on_event: OnEvent,
) -> AsyncIterator[Model]:
    """A model on the route that the options ask for; of one that is not here, the header is fetched.

    Raises:
        UsageError: this machine is in no private swarm, or nothing is called that.
        CapacityError: the peers do not host all of its blocks.
    """
    async with AsyncExitStack() as stack:
        neighbours, client = await stack.enter_async_context(find_neighbours(route, swarm))
        fetched = None
        if isinstance(model, Opening):
            opening = model
        else:
            if client is None:
                client = SwarmClient(swarm.config(), memberships=[neighbours.membership])
                await stack.enter_async_context(client)
            on_event(Asking(model.reference))
            fetched = await _fetch_header(client, neighbours, model.reference, swarm)
            # It keeps the name by which it was asked for.
            is_link = is_torrent_reference(model.reference)
            name = fetched.stored.name if is_link else model.reference
            opening = Opening(replace(fetched.stored, name=name), fetched.file)
        opened = await stack.enter_async_context(
            open_over(
                node,
                opening,
                neighbours,
                fetched=fetched,
                activations=route.activations,
                on_event=on_event,
            )
        )
        on_event(Loaded(opened.name, opened.context_limit, is_over_peers=True))
        yield opened


async def _fetch_header(
    client: SwarmClient, neighbours: Neighbours, reference: str, swarm: SwarmOptions
) -> FetchedModel:
    source = TorrentSource(reference, swarm.peers, swarm.swarm)
    if not is_torrent_reference(reference) and find_torrent(reference) is None:
        known = await neighbours.look()
        source = source_of(known, reference, neighbours.membership.name) or source
    return await fetch_header(client, source)


@asynccontextmanager
async def open_over(
    node: Node,
    opening: Opening,
    neighbours: Neighbours,
    *,
    fetched: FetchedModel | None = None,
    takes_over: bool = True,
    activations: Activations = "f32",
    on_event: OnEvent = lambda event: None,
) -> AsyncIterator[Model]:
    """A model whose blocks all run on these peers, on the fastest route there is.

    A peer that is lost is replaced by others that host the same blocks, or else by this machine, if it
    has room for them, and the weights, and `takes_over`. Where not all weights are here, `fetched`
    knows which are. `activations`: how rows travel between peers, fewer bits for thin links; all but 32
    bit change the answer a little.

    Raises:
        CapacityError: the peers do not host all of its blocks.
    """
    file = opening.file
    _, h = read_model(file)
    wanted = (
        fetched.torrent.metainfo.content_id
        if fetched is not None
        else await asyncio.to_thread(known_as, file)
    )
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
    context = min(context, node.options.context or context)
    source = fetched.torrent if fetched is not None else None
    understudy = Understudy(node, opening, neighbours.identity, wanted, context, source)

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
        yield await in_thread(node.load_route, opening, [chain], context)
    finally:
        await chain.close()
        await understudy.close()


async def is_faster_over_peers(
    file: GGUFFile,
    options: ModelOptions,
    neighbours: Neighbours,
    measure: Measure = measure_here,
) -> bool:
    """Whether the route over what peers host now is expected to be clearly faster than this machine.

    `measure` says how fast this machine is, and is asked only where peers have all blocks.
    """
    known = await neighbours.look()
    num_blocks = len(file.blocks)
    if not any(span.num_blocks == num_blocks for one in known for span in one.spans):
        # Before the file is hashed to find out.
        return False
    wanted = await asyncio.to_thread(known_as, file)
    hosted = hosted_route(file, wanted, known)
    if hosted is None:
        return False
    here_s = await asyncio.to_thread(_token_s_here, file, options, measure)
    return hosted.token_s < _WORTH_A_ROUTE * here_s


def _token_s_here(file: GGUFFile, options: ModelOptions, measure: Measure) -> float:
    node = Node(options)
    try:
        seconds_per_byte = measure(node, file)
    finally:
        node.close()
    sizes = Sizes(profile_model(file), Demand(TYPICAL_CONTEXT))
    return seconds_per_byte * sizes.read_bytes(BlockSpan(0, len(file.blocks)))


def hosted_route(file: GGUFFile, model: str, known: Sequence[Neighbour]) -> Placement | None:
    """The fastest route over what peers host now, as far as their figures tell."""
    measured = [one for one in known if one.byte_s is not None]
    return choose_route(
        profile_model(file),
        profiles_of(measured),
        _servable(file, model, measured),
        links_between(measured),
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
    able = [one for one in others if one.id not in avoid and one.byte_s is not None]
    spans = [(one.id, s.blocks) for one in able for s in _fitting(file, one.spans_of(lost.model))]
    placed = cover(
        profile_model(file),
        profiles_of(able),
        spans,
        links_between(able).default,
        lost.blocks,
        demand=Demand(TYPICAL_CONTEXT),
    )
    return _remote_spans(file, placed or (), able, lost.model)
