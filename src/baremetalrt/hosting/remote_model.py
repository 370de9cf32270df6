"""A model whose blocks run on peers: opened on the fastest route, or compared with this machine."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from baremetalrt.blocks.architectures import read_model
from baremetalrt.core.addresses import parse_address
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.tasks import in_thread
from baremetalrt.devices.budget import Purpose
from baremetalrt.hosting.events import OnEvent
from baremetalrt.hosting.headers import Header, find_header
from baremetalrt.hosting.hostable import known_as
from baremetalrt.hosting.neighbour import Neighbour
from baremetalrt.hosting.neighbours import HERE, Neighbours, local_network
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.hosting.rendezvous import dht_lookup
from baremetalrt.hosting.routes import TYPICAL_CONTEXT, cover_lost, hosted_route, route_over
from baremetalrt.hosting.understudy import Understudy
from baremetalrt.membership.authority import the_membership
from baremetalrt.node.events import Loaded
from baremetalrt.node.measurements import Measure, measurable, measure_here, profile_here
from baremetalrt.node.model import Model
from baremetalrt.node.model_profile import profile_model
from baremetalrt.node.naming import TorrentReference
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.peers.activations import Activations
from baremetalrt.peers.chain import RemoteChain
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.placement.planning import planned_seconds
from baremetalrt.placement.profiles import Demand, Sizes
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.weights.gguf import GGUFFile

# Other machines may fail, and have work of their own.
_WORTH_A_ROUTE: Final = 0.8


@asynccontextmanager
async def find_neighbours(
    route: RouteOptions, swarm: SwarmOptions
) -> AsyncIterator[tuple[Neighbours, SwarmClient | None]]:
    """The peers that the options name, or, where they name none, those of the local network.

    With a route over the whole swarm also those that the DHT names, and the client that asks it.

    Raises:
        UsageError: this machine is in no private swarm, or what is named is no address.
    """
    for address in route.via:
        parse_address(address)
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
        CapacityError: the peers do not host all of its blocks, or nobody sends its header.
    """
    async with AsyncExitStack() as stack:
        neighbours, client = await stack.enter_async_context(find_neighbours(route, swarm))
        header = None
        if isinstance(model, Opening):
            opening = model
        else:
            finding = find_header(model.reference, neighbours, client, swarm, on_event)
            header = await stack.enter_async_context(finding)
            opening = Opening(header.stored, header.file)
        opened = await stack.enter_async_context(
            open_over(
                node,
                opening,
                neighbours,
                header=header,
                activations=route.activations,
                on_event=on_event,
            )
        )
        on_event(Loaded(opened.name, opened.context_limit, is_over_peers=True))
        yield opened


@asynccontextmanager
async def open_over(
    node: Node,
    opening: Opening,
    neighbours: Neighbours,
    *,
    header: Header | None = None,
    takes_over: bool = True,
    activations: Activations = "f32",
    on_event: OnEvent = lambda event: None,
) -> AsyncIterator[Model]:
    """A model whose blocks all run on these peers, on the fastest route there is.

    A peer that is lost is replaced by others that host the same blocks, or else by this machine, if it
    has room for them, and the weights, and `takes_over`. Where not all weights are here, `header`
    knows which are. `activations`: how rows travel between peers, fewer bits for thin links; all but 32
    bit change the answer a little.

    Raises:
        CapacityError: the peers do not host all of its blocks.
    """
    file = opening.file
    _, h = read_model(file)
    wanted = header.content if header else await asyncio.to_thread(known_as, file)
    known = await neighbours.look(model=wanted)
    try:
        spans = route_over(file, wanted, known)
    except CapacityError as error:
        reasons = [*_namesakes(opening.stored.name, wanted, known), *neighbours.refusals.values()]
        message = "; ".join([error.message, *reasons])
        raise CapacityError(message, code=error.code, hint=error.hint) from error
    used = {span.id for span in spans}
    hosted = [s for one in known if one.id in used for s in one.spans if s.model == wanted]
    context = min([max(1, s.context) for s in hosted] + [h.training_context])
    context = min(context, node.options.context or context)
    has_weights = header.has_weights if header else None
    understudy = Understudy(node, opening, neighbours.identity, wanted, context, has_weights)

    async def replacement(lost: RemoteSpan, avoid: frozenset[str]) -> Sequence[RemoteSpan]:
        found = cover_lost(file, lost, await neighbours.ask(avoid), avoid)
        if not found and takes_over:
            found = await understudy.take_over(lost, avoid)
        # Looking around takes longer than asking those who are known.
        return found or cover_lost(file, lost, await neighbours.look(avoid, model=wanted), avoid)

    async def plan(avoid: frozenset[str]) -> Sequence[RemoteSpan]:
        answering = await neighbours.look(model=wanted)
        try:
            return route_over(file, wanted, [one for one in answering if one.id not in avoid])
        except CapacityError:
            # Who was lost a moment ago is better than nobody.
            return route_over(file, wanted, answering)

    chain = RemoteChain(
        neighbours.channels,
        spans,
        replacement,
        plan,
        row_width=h.vocabulary_size,
        activations=activations,
        on_event=on_event,
    )
    try:
        yield await in_thread(node.load_route, opening, [chain], context)
    finally:
        await chain.close()
        await understudy.close()


def _namesakes(name: str, content: str, known: Sequence[Neighbour]) -> list[str]:
    """What peers call like this model, and is another one."""
    others = {
        span.model
        for one in known
        for span in one.spans
        if span.name.lower() == name.lower() and span.model != content
    }
    return [f"what peers call {name} is another file: its content is {id_}" for id_ in others]


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
        room = node.ledger.room_for(Purpose.WHOLE_MODEL)
        device = profile_here(node, file, measurable(file), measure, room, HERE)
    finally:
        node.close()
    sizes = Sizes(profile_model(file), Demand(TYPICAL_CONTEXT))
    return planned_seconds(device, sizes, BlockSpan(0, len(file.blocks)))
