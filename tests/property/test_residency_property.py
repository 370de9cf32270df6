"""What stays in memory and what takes turns; what is read next, by a disk that ends in any order."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from baremetalrt.blocks.read_ahead import ReadAhead
from baremetalrt.blocks.residency import HeadRows, HeadSize, ResidencyPlan, plan_residency
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan

HEADS = st.builds(HeadSize, st.integers(1, 2000), st.integers(1, 60), st.just(32))
SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=24)


def works(plan: ResidencyPlan, kind: type) -> list[tuple[int, int]]:
    return [(p.work.start, p.work.end) for p in plan.parts if isinstance(p.work, kind)]


def require_whole(stretches: list[tuple[int, int]], start: int, end: int) -> None:
    assert (stretches[0][0], stretches[-1][1]) == (start, end)
    assert all(a[1] == b[0] for a, b in pairwise(stretches))


@given(
    first=st.integers(0, 9),
    sizes=SIZES,
    head=st.none() | HEADS,
    budget=st.integers(1, 200_000),
    min_part=st.integers(1, 4000),
)
def test_a_plan_keeps_its_budget_and_computes_everything_once(
    first: int, sizes: list[int], head: HeadSize | None, budget: int, min_part: int
) -> None:
    if max(sizes) > budget:
        with pytest.raises(CapacityError):
            plan_residency(first, sizes, head, budget, min_part_bytes=min_part)
        return
    plan = plan_residency(first, sizes, head, budget, min_part_bytes=min_part)
    require_whole(works(plan, BlockSpan), first, first + len(sizes))
    if head is not None:
        require_whole(works(plan, HeadRows), 0, head.num_rows)
        for start, end in works(plan, HeadRows)[:-1]:
            assert start % head.quantum == end % head.quantum == 0
    head_bytes = head.num_rows * head.row_bytes if head else 0
    assert plan.pinned_bytes + plan.streamed_bytes == sum(sizes) + head_bytes
    assert plan.pinned_bytes + plan.num_slots * plan.slot_bytes <= budget or not plan.streamed
    assert {part.slot for part in plan.streamed} <= set(range(plan.num_slots))
    smallest = head.quantum * head.row_bytes if head else 0
    assert all(part.num_bytes <= max(plan.slot_bytes, smallest) for part in plan.streamed)
    if sum(sizes) + head_bytes <= budget:
        assert not plan.streamed
    elif plan.num_slots == 2:
        # No block that is read again and again could have stayed.
        left = budget - plan.pinned_bytes - plan.num_slots * plan.slot_bytes
        streamed = {i for p in plan.streamed if isinstance(p.work, BlockSpan) for i in p.work}
        assert all(sizes[i - first] > left for i in streamed)


@given(
    sizes=SIZES,
    budget=st.integers(5000, 60_000),
    start=st.integers(0, 23),
    length=st.integers(1, 24),
)
def test_some_blocks_of_a_span_are_computed_in_the_same_parts(
    sizes: list[int], budget: int, start: int, length: int
) -> None:
    plan = plan_residency(0, sizes, None, budget, min_part_bytes=1)
    start = min(start, len(sizes) - 1)
    blocks = BlockSpan(start, min(start + length, len(sizes)))
    asked = [work for _, work in plan.within(blocks, has_head=False)]
    require_whole([(work.start, work.end) for work in asked], blocks.start, blocks.end)


class Disk(RuleBasedStateMachine):
    """One who computes, one disk. What is computed with was read for it, and stays meanwhile."""

    @initialize(data=st.data(), num_slots=st.integers(1, 3))
    def begin(self, data: st.DataObject, num_slots: int) -> None:
        self.slot_of = [i % num_slots for i in range(data.draw(st.integers(num_slots, 8)))]
        self.ahead = ReadAhead(self.slot_of)
        self.contents: list[int | None] = [None] * num_slots
        self.reading: set[int] = set()
        self.holding: int | None = None
        self.wanted: int | None = None
        self.last = -1

    def read_on(self) -> None:
        while (part := self.ahead.next_read()) is not None:
            slot = self.slot_of[part]
            assert self.holding is None or self.slot_of[self.holding] != slot
            assert all(self.slot_of[other] != slot for other in self.reading)
            self.contents[slot] = None
            self.reading.add(part)
            self.ahead.begin(part)

    def ask(self) -> None:
        assert self.wanted is not None
        if self.ahead.request(self.wanted):
            assert self.contents[self.slot_of[self.wanted]] == self.wanted
            self.holding, self.wanted = self.wanted, None
        self.read_on()

    @precondition(lambda self: self.wanted is None and self.holding is None)
    @rule(data=st.data(), in_turn=st.booleans())
    def want(self, data: st.DataObject, in_turn: bool) -> None:
        others = st.integers(0, len(self.slot_of) - 1)
        self.wanted = (self.last + 1) % len(self.slot_of) if in_turn else data.draw(others)
        self.ask()

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), ok=st.sampled_from([True, True, True, False]))
    def end_read(self, data: st.DataObject, ok: bool) -> None:
        part = data.draw(st.sampled_from(sorted(self.reading)))
        self.reading.remove(part)
        self.contents[self.slot_of[part]] = part if ok else None
        self.ahead.end(part, ok=ok)
        if self.wanted is not None:
            self.ask()

    @precondition(lambda self: self.holding is not None)
    @rule()
    def release(self) -> None:
        assert self.holding is not None
        self.last, part = self.holding, self.holding
        self.holding = None
        self.ahead.release(part)
        self.read_on()

    @invariant()
    def whoever_waits_waits_for_a_read(self) -> None:
        if getattr(self, "wanted", None) is not None:
            assert self.reading


TestDisk = Disk.TestCase


@given(num_slots=st.integers(2, 3), num_parts=st.integers(3, 9))
def test_in_turn_the_next_part_is_there_when_it_is_asked_for(
    num_slots: int, num_parts: int
) -> None:
    """With a disk that is faster than the computing, nobody waits after the first part."""
    ahead, reading = ReadAhead([i % num_slots for i in range(num_parts)]), []

    def read_all() -> None:
        while (part := ahead.next_read()) is not None:
            ahead.begin(part)
            ahead.end(part, ok=True)
            reading.append(part)

    assert not ahead.request(0)
    read_all()
    for turn in range(3 * num_parts):
        part = turn % num_parts
        assert ahead.request(part)
        read_all()
        ahead.release(part)
        read_all()
    rounds = len(reading) / num_parts
    assert 3 <= rounds <= 4
