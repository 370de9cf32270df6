"""Placement against brute force, and what must hold of any placement."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.placement.covering import cover
from baremetalrt.placement.improving import improve
from baremetalrt.placement.planning import choose_route, plan
from baremetalrt.placement.problem import RouteProblem
from baremetalrt.placement.profiles import (
    Demand,
    DeviceProfile,
    Link,
    ModelProfile,
    Network,
    Sizes,
)
from baremetalrt.placement.search import search
from baremetalrt.placement.span_choice import Harm, HostedBlocks, choose_span, harm, should_move

seconds = st.floats(0.001, 10.0)
CALLER = "d0"


@st.composite
def problems(draw: st.DrawFn) -> RouteProblem:
    """Any costs at all, some choices impossible: also such as no devices would have."""
    num_devices, num_blocks = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    shape = (num_devices, num_blocks + 1, num_blocks + 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Few different values make ties.
    span = rng.integers(1, draw(st.sampled_from([3, 1000])), shape).astype(float)
    span[rng.random(shape) < draw(st.sampled_from([0.0, 0.3, 0.7]))] = np.inf
    span[:, np.tri(num_blocks + 1, dtype=bool)] = np.inf
    hop = rng.integers(0, 3, (num_devices, num_devices)).astype(float)
    np.fill_diagonal(hop, np.inf)
    return RouteProblem(span, hop, rng.random(num_devices), rng.random(num_devices))


def all_routes(problem: RouteProblem) -> Iterator[tuple[tuple[int, int, int], ...]]:
    num_devices = len(problem.first_D)
    for num_stages in range(1, min(num_devices, problem.end) + 1):
        for devices in itertools.permutations(range(num_devices), num_stages):
            for cuts in itertools.combinations(range(1, problem.end), num_stages - 1):
                bounds = (0, *cuts, problem.end)
                yield tuple((d, a, b) for d, a, b in zip(devices, bounds, bounds[1:], strict=False))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_no_route_is_better_than_the_one_found(problem: RouteProblem) -> None:
    best = min(problem.cost(route) for route in all_routes(problem))
    answer = search(problem)
    if np.isinf(best):
        assert answer.route is None
    else:
        assert answer.route is not None
        assert answer.seconds == pytest.approx(best)
        assert problem.cost(answer.route) == answer.seconds
        assert answer.bound_s == pytest.approx(best)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(6, 10))
def test_a_route_that_was_improved_is_a_route_and_no_worse(seed: int, num_devices: int) -> None:
    """Beginning with one block on each of some devices, the best cuts of that order at least."""
    rng = np.random.default_rng(seed)
    end = 12
    span = rng.uniform(0.1, 1.0, (num_devices, end + 1, end + 1))
    span[:, np.tri(end + 1, dtype=bool)] = np.inf
    span[rng.random(span.shape) < 0.5] = np.inf
    stages = [(d, b, b + 1) for b, d in enumerate(rng.permutation(num_devices)[: num_devices - 1])]
    route = (*stages[:-1], (stages[-1][0], stages[-1][1], end))
    for stage in route:
        span[stage] = 1.0
    hop = rng.random((num_devices, num_devices))
    problem = RouteProblem(span, hop, rng.random(num_devices), rng.random(num_devices))
    better = improve(problem, route)
    assert better[0][1] == 0 and better[-1][2] == end
    assert all(a[2] == b[1] for a, b in itertools.pairwise(better))
    assert len({d for d, _, _ in better}) == len(better)
    assert problem.cost(better) < problem.cost(route)
    # Nothing small helps any more.
    assert improve(problem, better) == better


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelProfile, list[DeviceProfile], Network, Demand]:
    model = ModelProfile(
        block_bytes=tuple(draw(st.lists(st.integers(1, 50), min_size=1, max_size=6))),
        entry_bytes=draw(st.integers(0, 40)),
        head_bytes=(head := draw(st.integers(0, 40))),
        shared_bytes=draw(st.integers(0, head)),
        cell_bytes=draw(st.integers(0, 3)),
        row_bytes=8,
        answer_bytes=100,
    )
    model = ModelProfile(
        **{**vars(model), "shared_bytes": min(model.shared_bytes, model.entry_bytes)}
    )
    devices = [
        DeviceProfile(
            id=f"d{i}",
            budget_bytes=draw(st.integers(0, 200)),
            byte_s=draw(st.sampled_from([0.001, 0.01, 0.1])),
            step_s=draw(st.sampled_from([0.0, 0.5])),
        )
        for i in range(draw(st.integers(1, 4)))
    ]
    network = Network(Link(draw(st.sampled_from([0.0, 0.1, 5.0])), 1000.0))
    return model, devices, network, Demand(draw(st.integers(0, 5)), draw(st.integers(1, 3)))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_a_plan_covers_the_model_once_and_fits(
    case: tuple[ModelProfile, list[DeviceProfile], Network, Demand],
) -> None:
    model, devices, network, demand = case
    try:
        placement = plan(model, devices, network, caller=CALLER, demand=demand)
    except CapacityError:
        assume(False)
    spans = [placed.blocks for placed in placement.route]
    assert [b for span in spans for b in span] == list(range(model.num_blocks))
    names = [placed.device for placed in placement.route]
    assert len(set(names)) == len(names)
    budget = {device.id: device.budget_bytes for device in devices}
    sizes = Sizes(model, demand)
    for placed in placement.route:
        assert placed.held_bytes == sizes.held_bytes(placed.blocks) <= budget[placed.device]
    parts = sum(placed.span_s for placed in placement.route) + placement.hop_s
    assert placement.token_s == pytest.approx(parts)
    # The same spans, hosted already, are found again as a route.
    hosted = [(placed.device, placed.blocks) for placed in placement.route]
    route = choose_route(model, devices, hosted, network, caller=CALLER, demand=demand)
    assert route is not None
    assert route.token_s == pytest.approx(placement.token_s)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 100), st.sampled_from([0.0001, 0.01]))
def test_another_device_never_makes_a_plan_slower(
    case: tuple[ModelProfile, list[DeviceProfile], Network, Demand], budget: int, byte_s: float
) -> None:
    model, devices, network, demand = case
    try:
        before = plan(model, devices, network, caller=CALLER, demand=demand)
    except CapacityError:
        assume(False)
    more = [*devices, DeviceProfile(id="new", budget_bytes=budget, byte_s=byte_s)]
    after = plan(model, more, network, caller=CALLER, demand=demand)
    assert after.token_s <= before.token_s * (1 + 1e-6)


hosted_blocks = st.builds(
    lambda start, length, speed: HostedBlocks(BlockSpan(start, min(12, start + length)), speed),
    st.integers(0, 11),
    st.integers(1, 12),
    st.sampled_from([0.5, 1.0, 10.0]),
)


@given(st.lists(hosted_blocks, max_size=6), st.integers(1, 12), st.sampled_from([0.5, 5.0]))
def test_who_joins_takes_what_helps_the_swarm_most(
    hosted: list[HostedBlocks], max_blocks: int, speed: float
) -> None:
    taken = choose_span(12, hosted, max_blocks=max_blocks, tokens_per_s=speed)
    assert len(taken) == max_blocks

    def after(span: BlockSpan) -> Harm:
        return harm(12, [*hosted, HostedBlocks(span, speed)])

    best = after(taken)
    for start in range(12 - max_blocks + 1):
        other = after(BlockSpan(start, start + max_blocks))
        assert (best.num_missing, best.token_s) <= (other.num_missing, other.token_s * (1 + 1e-9))
    # Having gone there, it stays.
    mine = HostedBlocks(taken, speed)
    assert should_move(12, hosted, mine, max_blocks=max_blocks) is None


def test_moves_to_where_nobody_is() -> None:
    mine = HostedBlocks(BlockSpan(0, 6), 1.0)
    others = [HostedBlocks(BlockSpan(0, 6), 1.0)]
    assert should_move(12, others, mine, max_blocks=6) == BlockSpan(6, 12)


def test_stays_where_it_is_the_only_one() -> None:
    mine = HostedBlocks(BlockSpan(0, 6), 1.0)
    others = [HostedBlocks(BlockSpan(6, 12), 0.1)]
    assert should_move(12, others, mine, max_blocks=6) is None


def _model(num_blocks: int = 4) -> ModelProfile:
    return ModelProfile(
        block_bytes=(100,) * num_blocks,
        entry_bytes=50,
        head_bytes=50,
        shared_bytes=50,
        cell_bytes=0,
        row_bytes=10,
        answer_bytes=100,
    )


def test_one_machine_alone_is_best_where_it_has_room() -> None:
    devices = [
        DeviceProfile(id="here", budget_bytes=450, byte_s=1e-3),
        DeviceProfile(id="there", budget_bytes=450, byte_s=0.9e-3),
    ]
    network = Network(Link(0.1, 1e6))
    placement = plan(_model(), devices, network, caller="here", demand=Demand(0))
    assert [placed.device for placed in placement.route] == ["here"]
    assert placement.hop_s == 0


def test_a_slow_device_is_left_out_unless_it_is_needed() -> None:
    fast = [DeviceProfile(id=f"d{i}", budget_bytes=350, byte_s=1e-3) for i in range(2)]
    slow = DeviceProfile(id="slow", budget_bytes=1000, byte_s=1.0)
    network = Network(Link(0.01, 1e6))
    placement = plan(_model(), [*fast, slow], network, caller="d0", demand=Demand(0))
    assert {placed.device for placed in placement.route} == {"d0", "d1"}
    alone = plan(_model(), [fast[0], slow], network, caller="d0", demand=Demand(0))
    assert "slow" in {placed.device for placed in alone.route}


def test_no_room_is_said_at_once() -> None:
    devices = [DeviceProfile(id="d0", budget_bytes=250, byte_s=1e-3)]
    with pytest.raises(CapacityError, match="cannot hold the model") as caught:
        plan(_model(), devices, Network(Link(0, 1)), caller="d0", demand=Demand(0))
    assert caught.value.code == "placement.no-room"


def test_a_longer_context_needs_more_machines() -> None:
    model = ModelProfile(**{**vars(_model()), "cell_bytes": 1, "row_bytes": 0})
    devices = [DeviceProfile(id=f"d{i}", budget_bytes=500, byte_s=1e-3) for i in range(4)]
    network = Network(Link(0.01, 1e6))
    few = plan(model, devices, network, caller="d0", demand=Demand(0))
    many = plan(model, devices, network, caller="d0", demand=Demand(100, num_sessions=2))
    assert len(few.route) < len(many.route)


def test_a_thin_link_is_avoided() -> None:
    devices = [DeviceProfile(id=f"d{i}", budget_bytes=350, byte_s=1e-3) for i in range(3)]
    thin = Link(0.001, 1.0)
    network = Network(Link(0.001, 1e6), {("d0", "d1"): thin, ("d1", "d0"): thin})
    placement = plan(_model(), devices, network, caller="d0", demand=Demand(0))
    assert {placed.device for placed in placement.route} == {"d0", "d2"}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7), st.integers(1, 8)), max_size=6),
    st.tuples(st.integers(0, 7), st.integers(1, 8)),
    st.lists(st.floats(0.001, 1.0), min_size=3, max_size=3),
    st.floats(0.0, 5.0),
)
def test_no_cover_of_a_lost_span_is_faster(
    raw: list[tuple[int, int, int]],
    lost: tuple[int, int],
    byte_s: list[float],
    hop_s: float,
) -> None:
    """Against every way to put hosted spans, whole or in part, one after the other."""
    num_blocks = 8
    assume(lost[0] < lost[1])
    model = ModelProfile(
        block_bytes=tuple(range(1, num_blocks + 1)),
        entry_bytes=3,
        head_bytes=5,
        cell_bytes=0,
        row_bytes=0,
        answer_bytes=0,
    )
    devices = [
        DeviceProfile(id=f"d{i}", budget_bytes=0, byte_s=each) for i, each in enumerate(byte_s)
    ]
    hosted = [(f"d{d}", BlockSpan(a, b)) for d, a, b in raw if a < b]
    blocks, demand = BlockSpan(*lost), Demand(0)
    sizes = Sizes(model, demand)

    def fastest_from(start: int) -> float:
        """Block by block: stay with who computed the last one, or go to another."""
        ways = [float("inf")]
        for device, span in hosted:
            for end in range(start + 1, min(span.end, blocks.end) + 1):
                if span.start <= start:
                    seconds = sizes.read_bytes(BlockSpan(start, end)) * byte_s[int(device[1:])]
                    rest = 0.0 if end == blocks.end else hop_s + fastest_from(end)
                    ways.append(seconds + rest)
        return min(ways)

    placed = cover(model, devices, hosted, Link(hop_s, 1.0), blocks, demand=demand)
    expected = fastest_from(blocks.start)
    if np.isinf(expected):
        assert placed is None
        return
    assert placed is not None
    assert [p.blocks.start for p in placed] == [
        blocks.start,
        *(p.blocks.end for p in placed[:-1]),
    ]
    assert placed[-1].blocks.end == blocks.end
    found = sum(p.span_s for p in placed) + hop_s * (len(placed) - 1)
    assert found == pytest.approx(expected)
