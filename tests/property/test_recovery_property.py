"""Whatever happens to peers, in whatever order: the tokens are the same, and nobody waits for ever."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baremetalrt.core.spans import BlockSpan
from baremetalrt.peers import recovery
from baremetalrt.peers.attached_span import AttachedSpan
from baremetalrt.peers.loss_watch import PROBE_INTERVAL_S, LossWatch, StageLostError
from baremetalrt.peers.stage_commands import Step
from chain_simulation import (
    CHUNK_TOKENS,
    FAILURES,
    NUM_BLOCKS,
    HonestPeerBlamedError,
    PeerPlan,
    World,
    alone,
)

# Seconds for a token; a chunk of the slowest ones takes eighty.
SPEEDS = st.sampled_from([0.0, 0.001, 0.5, 10.0])


@st.composite
def peer_plans(draw: st.DrawFn, blocks: BlockSpan, may_fail: bool = True) -> PeerPlan:
    return PeerPlan(
        blocks,
        token_s=draw(SPEEDS),
        says_token_s=draw(st.booleans()),
        failure=draw(st.sampled_from((None, *FAILURES))) if may_fail else None,
        fails_after=draw(st.integers(0, 25)),
    )


@st.composite
def partitions(draw: st.DrawFn) -> list[BlockSpan]:
    """All blocks, cut into spans."""
    cuts = sorted(draw(st.sets(st.integers(1, NUM_BLOCKS - 1), max_size=3)))
    return [BlockSpan(a, b) for a, b in zip([0, *cuts], [*cuts, NUM_BLOCKS], strict=True)]


@dataclass(frozen=True)
class WorldPlan:
    """A route, who is in reserve, and how links behave."""

    route: list[PeerPlan]
    spares: list[PeerPlan]
    seed: int
    latency_s: float

    def make(self) -> World:
        chance = random.Random(self.seed)
        return World(self.route, self.spares, chance, latency_s=self.latency_s)


@st.composite
def world_plans(draw: st.DrawFn) -> WorldPlan:
    route = [draw(peer_plans(blocks)) for blocks in draw(partitions())]
    spares = list[PeerPlan]()
    for _ in range(draw(st.integers(0, 2))):
        spares += [draw(peer_plans(blocks)) for blocks in draw(partitions())]
    # Some that never fail come last, so that mostly somebody is left.
    for _ in range(draw(st.integers(0, 3))):
        spares += [draw(peer_plans(blocks, may_fail=False)) for blocks in draw(partitions())]
    latency_s = draw(st.sampled_from([0.001, 0.05, 0.4]))
    return WorldPlan(route, spares, draw(st.integers(0, 2**32)), latency_s)


SCRIPTS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, CHUNK_TOKENS)),
        st.tuples(st.just("burst"), st.integers(2, 4)),
        st.tuples(st.just("grow"), st.just(0)),
        st.tuples(st.just("truncate"), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=8,
)


def run_script(world: World, script: list[tuple[str, int]]) -> None:
    """A prompt in bursts of chunks, single steps, and now and then a step back."""
    text, steps = world.text, list[Step]()
    world.run(lambda: text.open(()))
    for what, amount in script:
        if text.error is not None:
            break
        if what == "grow":
            world.run(lambda: text.grow(text.capacity + 8))
        elif what == "truncate":
            del steps[max(0, len(steps) - amount) :]
            world.run(partial(text.truncate, steps[-1].end if steps else 0))
        else:
            new = list[Step]()
            for size in [amount] if what == "step" else [CHUNK_TOKENS] * amount:
                position = (steps + new)[-1].end if steps + new else 0
                new.append(Step(position, tuple(range(position, position + size)), None, "all"))
            steps += new
            world.run(*(partial(text.forward, step) for step in new), waits_for_each=False)
            if text.error is None:
                expected = alone(steps)
                for step in new:
                    assert text.take_rows(step.position) == expected[step.position]
    if text.error is not None:
        assert text.error.code == "route.lost"
        assert world.has_run_out or text.num_recoveries > 8


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=world_plans(), script=SCRIPTS)
def test_the_tokens_are_the_same_whatever_happens(
    plan: WorldPlan, script: list[tuple[str, int]]
) -> None:
    """Losses, silences, lies, late answers, and others who step in and fail, too."""
    run_script(plan.make(), script)


class CountsFromTheStart(LossWatch):
    """What was wrong once: 120 s from the start of a wait, and then the last stage is blamed."""

    _began = 0.0

    def wait(self, stages: Sequence[AttachedSpan], now: float) -> None:
        self._began = now
        super().wait(stages, now)

    def tick(
        self, stages: Sequence[AttachedSpan], given: int | None, longest_step: int, now: float
    ) -> None:
        self.probe_at = now + PROBE_INTERVAL_S
        if now - self._began > 120:
            raise StageLostError(stages[-1], "a step takes too long")


def test_a_deadline_from_the_start_of_a_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three healthy stages that take a minute each for a chunk."""
    thirds = [BlockSpan(0, 2), BlockSpan(2, 4), BlockSpan(4, 6)]
    route = [PeerPlan(blocks, token_s=60 / CHUNK_TOKENS) for blocks in thirds]
    script = [("burst", 3)]
    run_script(World(route, route, random.Random(0)), script)
    monkeypatch.setattr(recovery, "LossWatch", CountsFromTheStart)
    with pytest.raises(HonestPeerBlamedError):
        run_script(World(route, route, random.Random(0)), script)


@pytest.mark.parametrize("flooding", [0, 1, 2])
def test_a_stage_that_says_what_nobody_asked_for_is_left(flooding: int) -> None:
    """Whichever it is, for its place at once; what it said is not kept."""
    thirds = [BlockSpan(0, 2), BlockSpan(2, 4), BlockSpan(4, 6)]
    route = [
        PeerPlan(one, failure="floods" if i == flooding else None) for i, one in enumerate(thirds)
    ]
    world = World(route, [PeerPlan(one) for one in thirds], random.Random(0))
    run_script(world, [("burst", 3), ("decode", 5)])
    assert [stage.span.id for stage in world.text.stages].count(f"r{flooding}") == 0
    assert world.text.num_recoveries == 1
