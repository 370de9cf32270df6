"""Machines that choose what to host, each by itself, in virtual time."""

import heapq
from random import Random
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from baremetalrt.core.spans import BlockSpan
from baremetalrt.hosting.choice import MoveChoice, Situation, first_span
from baremetalrt.placement.span_choice import HostedBlocks, harm

NUM_BLOCKS: Final = 12
INTERVAL_S: Final = 60.0
# As many looks as a swarm may need to come to rest.
END_S: Final = 200 * INTERVAL_S


class Machine:
    """A machine that hosts a span, and looks now and then where it is needed more."""

    def __init__(self, max_blocks: int, speed: float, chance: Random) -> None:
        self.max_blocks, self.speed = max_blocks, speed
        self.hosted: HostedBlocks | None = None
        self.choice = MoveChoice(INTERVAL_S, 0.0, chance)

    def host(self, blocks: BlockSpan) -> None:
        self.hosted = HostedBlocks(blocks, self.speed)


MACHINES = st.lists(
    st.tuples(st.integers(1, NUM_BLOCKS), st.floats(1, 100)), min_size=1, max_size=6
)


def others_of(swarm: list[Machine], me: Machine) -> list[HostedBlocks]:
    return [one.hosted for one in swarm if one is not me and one.hosted is not None]


def everybody(swarm: list[Machine]) -> list[HostedBlocks]:
    return [one.hosted for one in swarm if one.hosted is not None]


@settings(deadline=None)
@given(machines=MACHINES, seed=st.integers(0, 2**32), gone=st.integers(0, 5))
def test_a_swarm_comes_to_rest_and_nobody_makes_it_worse(
    machines: list[tuple[int, float]], seed: int, gone: int
) -> None:
    """They join one after the other, one leaves, and the others fill its place, if they have room."""
    chance = Random(seed)
    swarm = list[Machine]()
    for max_blocks, speed in machines:
        machine = Machine(max_blocks, speed, chance)
        known = everybody(swarm)
        machine.host(first_span(NUM_BLOCKS, max_blocks, known, room_bytes=0))
        swarm.append(machine)
    if gone < len(swarm) > 1:
        swarm.pop(gone)
    looks = [(machine.choice.look_at_s, i) for i, machine in enumerate(swarm)]
    heapq.heapify(looks)
    last_move_s = 0.0
    while looks and looks[0][0] < END_S:
        now, index = heapq.heappop(looks)
        me = swarm[index]
        assert me.hosted is not None
        before = harm(NUM_BLOCKS, everybody(swarm))
        situation = Situation(
            num_blocks=NUM_BLOCKS,
            max_blocks=me.max_blocks,
            mine=me.hosted,
            others=others_of(swarm, me),
            num_texts=chance.choice((0, 0, 1)),
        )
        target = me.choice.look(now, situation, chance)
        assert now <= me.choice.look_at_s <= now + 1.25 * INTERVAL_S
        if target is not None:
            assert not situation.num_texts and len(target) <= me.max_blocks < NUM_BLOCKS
            me.host(target)
            last_move_s = now
            # As far as it knew, and nobody moved in between, it is better than it was.
            assert harm(NUM_BLOCKS, everybody(swarm)) < before
        heapq.heappush(looks, (me.choice.look_at_s, index))
    assert last_move_s < END_S / 2
    rest = everybody(swarm)
    for me in swarm:
        assert me.hosted is not None
        moved = [*others_of(swarm, me)]
        best = min(
            harm(
                NUM_BLOCKS,
                [*moved, HostedBlocks(BlockSpan(i, i + len(me.hosted.blocks)), me.speed)],
            )
            for i in range(NUM_BLOCKS - len(me.hosted.blocks) + 1)
        )
        # Nobody stays where blocks that it could host are missing.
        assert harm(NUM_BLOCKS, rest).num_missing <= best.num_missing


@given(seed=st.integers(0, 2**32))
def test_two_that_see_the_same_gap_do_not_both_go_there(seed: int) -> None:
    """Whoever looks a second time after the other has moved stays."""
    chance = Random(seed)
    swarm = [Machine(6, 10.0, chance) for _ in range(3)]
    for machine in swarm:
        machine.host(BlockSpan(0, 6))
    moves = 0
    looks = sorted((m.choice.look_at_s, i) for i, m in enumerate(swarm))
    for _ in range(30):
        now, index = looks.pop(0)
        me = swarm[index]
        assert me.hosted is not None
        situation = Situation(
            num_blocks=NUM_BLOCKS,
            max_blocks=6,
            mine=me.hosted,
            others=others_of(swarm, me),
            num_texts=0,
        )
        target = me.choice.look(now, situation, chance)
        if target is not None:
            me.host(target)
            moves += 1
        looks = sorted([*looks, (me.choice.look_at_s, index)])
    assert moves == 1 and harm(NUM_BLOCKS, everybody(swarm)).num_missing == 0


def test_a_text_that_is_there_is_not_left() -> None:
    """Not even for blocks that nobody has."""
    chance = Random(0)
    choice = MoveChoice(INTERVAL_S, 0.0, chance)
    situation = Situation(
        num_blocks=NUM_BLOCKS,
        max_blocks=6,
        mine=HostedBlocks(BlockSpan(0, 6), 1.0),
        others=[HostedBlocks(BlockSpan(0, 6), 1.0)],
        num_texts=1,
    )
    assert [choice.look(choice.look_at_s, situation, chance) for _ in range(6)] == [None] * 6
