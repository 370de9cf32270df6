"""What a model would do on this machine and its peers: the plan, and what is hosted already."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.hosting.headers import Header, find_header, header_here
from baremetalrt.hosting.hostable import known_as
from baremetalrt.hosting.neighbours import HERE, Neighbours, links_between, profiles_of
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.hosting.remote_model import find_neighbours, open_over
from baremetalrt.hosting.routes import hosted_route
from baremetalrt.node.events import ignore
from baremetalrt.node.measurements import Measure, measurable, measure_here, profiles_here
from baremetalrt.node.model import Model
from baremetalrt.node.model_profile import demand_of, profile_model
from baremetalrt.node.naming import (
    NamedModel,
    TorrentReference,
    find_whole_model,
    has_private_swarm,
)
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.placement.planning import Placement as Placement
from baremetalrt.placement.planning import plan
from baremetalrt.placement.profiles import DeviceProfile
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.weights.store import StoredModel

_MEASURED_TOKENS: Final = 33


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What is planned for: of the model, the header is enough.

    `budget_bytes`: what this machine gives, None for most of what is free. `measures`: the route over
    what is hosted now is timed, too.
    """

    model: NamedModel
    options: ModelOptions
    route: RouteOptions
    swarm: SwarmOptions
    budget_bytes: int | None = None
    measures: bool = False


@dataclass(frozen=True)
class Plan:
    """The best placement there could be, and the best route over what is hosted now, if there is one.

    `unmeasured` are peers that answer and do not say how fast they are: no plan counts on them.
    """

    model: str
    context: int
    devices: Sequence[DeviceProfile]
    best: Placement
    hosted: Placement | None
    unmeasured: Sequence[str] = ()
    measured_token_s: float | None = None


async def make_plan(request: PlanRequest, measure: Measure = measure_here) -> Plan:
    """Measures this machine, by `measure`, asks its peers, if it is in a private swarm, and plans.

    Raises:
        UsageError: there is no route to measure.
        CapacityError: there is no room for the model.
    """
    is_alone = not request.route.via and request.swarm.swarm is None and not has_private_swarm()
    async with AsyncExitStack() as stack:
        neighbours = client = None
        if not is_alone:
            found = find_neighbours(request.route, request.swarm)
            neighbours, client = await stack.enter_async_context(found)
        header = None
        if isinstance(request.model, TorrentReference):
            finding = _find_header(request.model.reference, neighbours, client, request.swarm)
            header = await stack.enter_async_context(finding)
        opening = _opening(request.model, header)
        plan_ = await plan_over(
            opening, request.options, neighbours, request.budget_bytes, measure, header
        )
        if not request.measures:
            return plan_
        if neighbours is None or plan_.hosted is None:
            raise UsageError(
                "there is no route over peers to measure",
                code="route.incomplete",
                hint="`bmrt bench` measures this machine, `bmrt ps` lists what peers host",
            )
        measured_s = await measured_token_s(opening, request.options, neighbours, header)
        return replace(plan_, measured_token_s=measured_s)


@asynccontextmanager
async def _find_header(
    reference: str, neighbours: Neighbours | None, client: SwarmClient | None, swarm: SwarmOptions
) -> AsyncIterator[Header]:
    """The header from the disk, or else from peers; raises like `find_header`."""
    here = await asyncio.to_thread(header_here, reference)
    if here is not None:
        yield here
    elif neighbours is None:
        # Nobody can be asked: what is missing is said as for every other use.
        await asyncio.to_thread(find_whole_model, reference)
    else:
        async with find_header(reference, neighbours, client, swarm, ignore) as found:
            yield found


def _opening(model: NamedModel, header: Header | None) -> Opening:
    if isinstance(model, StoredModel):
        return Opening(model)
    assert header is not None
    return Opening(header.stored, header.file)


async def plan_over(
    opening: Opening,
    options: ModelOptions,
    neighbours: Neighbours | None,
    budget_bytes: int | None,
    measure: Measure = measure_here,
    header: Header | None = None,
) -> Plan:
    """The plan over these peers; raises `CapacityError` like `placement.planning.plan`.

    Where not all of the model is here, `header` knows what is.
    """
    file = opening.file
    demand = demand_of(file, options)

    def here() -> list[DeviceProfile]:
        timed = measurable(file, header.has_weights if header else None)
        return profiles_here(options, file, timed, measure, budget_bytes, HERE)

    known = await neighbours.look() if neighbours is not None else []
    # After the others were timed, not beside it.
    own = await asyncio.to_thread(here)
    devices = [*own, *profiles_of(known)]
    network = links_between(known, [one.id for one in own])
    best = plan(profile_model(file), devices, network, caller=HERE, demand=demand)
    hosted = None
    if known:
        wanted = header.content if header else await asyncio.to_thread(known_as, file)
        hosted = hosted_route(file, wanted, known)
    unmeasured = tuple(one.id for one in known if one.byte_s is None)
    return Plan(opening.stored.name, demand.context, devices, best, hosted, unmeasured)


async def measured_token_s(
    opening: Opening, options: ModelOptions, neighbours: Neighbours, header: Header | None = None
) -> float:
    """Median seconds per token over the route that a run would take now."""
    node = Node(options)
    try:
        async with open_over(node, opening, neighbours, header=header) as model:
            return await _token_s(model)
    finally:
        await asyncio.to_thread(node.close)


async def _token_s(model: Model) -> float:
    greedy = GenerationOptions(
        sampling=SampleOptions(temperature=0), max_tokens=_MEASURED_TOKENS, ignore_end=True
    )
    times = []
    async for _ in model.session([1], greedy).generate():
        times.append(time.perf_counter())
    return statistics.median(b - a for a, b in itertools.pairwise(times))


async def peer_reports(route: RouteOptions, swarm: SwarmOptions) -> list[dict[str, Any]]:
    """What the peers that answer now say of themselves, the nearest first."""
    async with find_neighbours(route, swarm) as (neighbours, _):
        found = await neighbours.look()
    return [one.report() for one in sorted(found, key=lambda one: one.round_trip_s)]
