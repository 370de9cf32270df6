"""What a model would do on this machine and its peers: the plan, and what is hosted already."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from baremetalrt.core.spans import BlockSpan
from baremetalrt.placement.planning import Placement, plan
from baremetalrt.placement.profiles import Demand, DeviceProfile, Sizes
from baremetalrt.serve.measuring import demand_of, measure_here, offered_bytes, profile_model
from baremetalrt.serve.neighbours import HERE, Neighbours, links_between
from baremetalrt.serve.node import Model, Node, NodeConfig
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.remote import TYPICAL_CONTEXT, hosted_route, model_over_peers
from baremetalrt.serve.torrents import content_id
from baremetalrt.session.sampling import SamplingOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.gguf import GGUFFile

_MEASURED_TOKENS: Final = 33
# Other machines may fail, and have work of their own.
_WORTH_A_ROUTE: Final = 0.8


@dataclass(frozen=True)
class Forecast:
    """The best placement there could be, and the best route over what is hosted now, if there is one."""

    context: int
    devices: Sequence[DeviceProfile]
    best: Placement
    hosted: Placement | None


async def forecast(
    file: GGUFFile,
    config: NodeConfig,
    neighbours: Neighbours | None,
    budget_bytes: int | None,
) -> Forecast:
    """Measures this machine, asks its peers, and plans; raises like `plan`."""
    demand = demand_of(file, config)

    def here() -> DeviceProfile:
        room = offered_bytes() if budget_bytes is None else budget_bytes
        node = Node(config)
        try:
            return DeviceProfile(id=HERE, budget_bytes=room, byte_s=measure_here(node, file))
        finally:
            node.close()

    known = await neighbours.look() if neighbours is not None else []
    # After the others were timed, not beside it.
    devices = [await asyncio.to_thread(here), *(one.profile() for one in known)]
    best = plan(profile_model(file), devices, links_between(known), caller=HERE, demand=demand)
    hosted = None
    if known and neighbours is not None:
        wanted = await asyncio.to_thread(content_id, file, neighbours.membership)
        hosted = hosted_route(file, wanted, known)
    return Forecast(demand.context, devices, best, hosted)


async def is_faster_over_peers(file: GGUFFile, config: NodeConfig, neighbours: Neighbours) -> bool:
    """Whether the route over what peers host now is expected to be clearly faster than this machine."""
    known = await neighbours.look()
    num_blocks = len(file.blocks)
    if not any(span.num_blocks == num_blocks for one in known for span in one.spans):
        # Before the file is hashed to find out.
        return False
    wanted = await asyncio.to_thread(content_id, file, neighbours.membership)
    hosted = hosted_route(file, wanted, known)
    if hosted is None:
        return False
    here_s = await asyncio.to_thread(_token_s_here, file, config)
    return hosted.token_s < _WORTH_A_ROUTE * here_s


def _token_s_here(file: GGUFFile, config: NodeConfig) -> float:
    node = Node(config)
    try:
        seconds_per_byte = measure_here(node, file)
    finally:
        node.close()
    sizes = Sizes(profile_model(file), Demand(TYPICAL_CONTEXT))
    return seconds_per_byte * sizes.read_bytes(BlockSpan(0, len(file.blocks)))


async def measured_token_s(opening: Opening, config: NodeConfig, neighbours: Neighbours) -> float:
    """Median seconds per token over the route that a run would take now."""
    node = Node(config)
    try:
        async with model_over_peers(node, opening, neighbours) as model:
            return await _token_s(model)
    finally:
        node.close()


async def _token_s(model: Model) -> float:
    greedy = GenerationOptions(
        sampling=SamplingOptions(temperature=0), max_tokens=_MEASURED_TOKENS, ignore_end=True
    )
    times = []
    async for _ in model.session([1], greedy).generate():
        times.append(time.perf_counter())
    return statistics.median(b - a for a, b in itertools.pairwise(times))


def describe(placement: Placement) -> dict[str, Any]:
    """A placement for programs."""
    return {
        "route": [
            {
                "device": placed.device,
                "start": placed.blocks.start,
                "end": placed.blocks.end,
                "bytes": placed.held_bytes,
                "span_s": placed.span_s,
            }
            for placed in placement.route
        ],
        "token_s": placement.token_s,
        "hop_s": placement.hop_s,
        "bound_s": placement.bound_s,
    }
