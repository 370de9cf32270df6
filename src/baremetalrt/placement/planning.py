"""The best placement of a model on devices, for one caller."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes
from baremetalrt.placement.problem import RouteProblem
from baremetalrt.placement.profiles import Demand, DeviceProfile, ModelProfile, Network, Sizes
from baremetalrt.placement.search import Answer, search


@dataclass(frozen=True)
class PlacedSpan:
    """A span on a device: what it holds there, and the seconds that one token takes in it."""

    device: str
    blocks: BlockSpan
    held_bytes: int
    span_s: float


@dataclass(frozen=True)
class Placement:
    """A route, and what is expected of it: `token_s` in all, `hop_s` of it between machines.

    No route can be faster than `bound_s`; on most inputs both are the same.
    """

    route: tuple[PlacedSpan, ...]
    token_s: float
    hop_s: float
    bound_s: float


def plan(
    model: ModelProfile,
    devices: Sequence[DeviceProfile],
    network: Network,
    *,
    caller: str,
    demand: Demand,
) -> Placement:
    """Spans on devices with the fewest seconds per token in decode for `caller`.

    Each device holds one span at most, within its budget. One that is not worth a hop is left out.

    Raises:
        CapacityError: the devices have no room for the model.
    """
    sizes = Sizes(model, demand)
    end = model.num_blocks
    span_DBB = np.full((len(devices), end + 1, end + 1), np.inf)
    for d, device in enumerate(devices):
        for start in range(end):
            for blocks in _spans_from(start, end):
                span_DBB[d, start, blocks.end] = planned_seconds(device, sizes, blocks)
    answer = search(_problem(model, devices, network, caller, span_DBB))
    if answer.route is None:
        room = sum(device.budget_bytes for device in devices)
        needed = sizes.held_bytes(BlockSpan(0, end))
        raise CapacityError(
            f"{len(devices)} devices with {format_bytes(room)} cannot hold the model, which needs "
            f"{format_bytes(needed)} with a context of {demand.context} tokens",
            code="placement.no-room",
            needed=needed,
            available=room,
            hint="ask for a shorter context, give more memory, or ask another machine in",
        )
    return _placement(answer, model, devices, network, caller, sizes, _planned_span)


def choose_route(
    model: ModelProfile,
    devices: Sequence[DeviceProfile],
    hosted: Iterable[tuple[str, BlockSpan]],
    network: Network,
    *,
    caller: str,
    demand: Demand,
) -> Placement | None:
    """The fastest route over spans that devices hold already, as they are; None if there is none."""
    sizes = Sizes(model, demand)
    number = {device.id: d for d, device in enumerate(devices)}
    span_DBB = np.full((len(devices), model.num_blocks + 1, model.num_blocks + 1), np.inf)
    for device_id, blocks in hosted:
        d = number[device_id]
        span_DBB[d, blocks.start, blocks.end] = _seconds(devices[d], sizes, blocks)
    answer = search(_problem(model, devices, network, caller, span_DBB))
    if answer.route is None:
        return None
    return _placement(answer, model, devices, network, caller, sizes, placed_span)


def _spans_from(start: int, end: int) -> Iterable[BlockSpan]:
    return (BlockSpan(start, stop) for stop in range(start + 1, end + 1))


def _seconds(device: DeviceProfile, sizes: Sizes, blocks: BlockSpan) -> float:
    return device.step_s + sizes.read_bytes(blocks) * device.byte_s


def planned_seconds(device: DeviceProfile, sizes: Sizes, blocks: BlockSpan) -> float:
    """Seconds of a decode step on a device that is to take the span; infinite where it has no room."""
    seconds, over = _seconds(device, sizes, blocks), sizes.held_bytes(blocks) - device.budget_bytes
    if over <= 0:
        return seconds
    if device.disk_byte_s is None or sizes.smallest_bytes(blocks) > device.budget_bytes:
        return math.inf
    # The disk reads while the processor computes: whichever takes longer counts.
    return max(seconds, min(over, sizes.read_bytes(blocks)) * device.disk_byte_s)


def placed_span(device: DeviceProfile, sizes: Sizes, blocks: BlockSpan) -> PlacedSpan:
    """A span that a device holds already, with what is expected of it."""
    return PlacedSpan(device.id, blocks, sizes.held_bytes(blocks), _seconds(device, sizes, blocks))


def _planned_span(device: DeviceProfile, sizes: Sizes, blocks: BlockSpan) -> PlacedSpan:
    held = min(sizes.held_bytes(blocks), device.budget_bytes)
    return PlacedSpan(device.id, blocks, held, planned_seconds(device, sizes, blocks))


def _problem(
    model: ModelProfile,
    devices: Sequence[DeviceProfile],
    network: Network,
    caller: str,
    span_DBB: np.ndarray,
) -> RouteProblem:
    ids = [device.id for device in devices]
    hop_DD = np.array([[network.seconds(a, b, model.row_bytes) for b in ids] for a in ids])
    hop_DD = hop_DD.reshape(len(ids), len(ids))
    np.fill_diagonal(hop_DD, np.inf)
    return RouteProblem(
        span_DBB,
        hop_DD,
        np.array([network.seconds(caller, a, 0) for a in ids]),
        np.array([network.seconds(a, caller, model.answer_bytes) for a in ids]),
    )


def _placement(
    answer: Answer,
    model: ModelProfile,
    devices: Sequence[DeviceProfile],
    network: Network,
    caller: str,
    sizes: Sizes,
    place: Callable[[DeviceProfile, Sizes, BlockSpan], PlacedSpan],
) -> Placement:
    route = tuple(
        place(devices[d], sizes, BlockSpan(start, end)) for d, start, end in answer.route or ()
    )
    ids = [caller, *(span.device for span in route), caller]
    num_bytes = [0, *[model.row_bytes] * (len(route) - 1), model.answer_bytes]
    hop_s = sum(network.seconds(a, b, n) for a, b, n in zip(ids, ids[1:], num_bytes, strict=False))
    return Placement(route, answer.seconds, hop_s, answer.bound_s)
