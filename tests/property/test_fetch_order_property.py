"""What is asked for, piece by piece, by a downloader that follows deadlines first, then priorities."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.units import KIB, MIB
from baremetalrt.swarm.fetch_order import UNWANTED, FetchOrder, order_fetch, step_pieces

MAX_PIECES = 24
# Which of several pieces that it may take now the downloader takes.
Choice = Callable[[list[int]], int]


@dataclass(frozen=True)
class Situation:
    num_pieces: int
    wanted: frozenset[int]
    have: frozenset[int]
    units: list[frozenset[int]]
    awaited: list[frozenset[int]]
    step: int

    def order(self, have: set[int] | frozenset[int], *, probes: int | None = None) -> FetchOrder:
        return order_fetch(
            num_pieces=self.num_pieces,
            wanted=self.wanted,
            have=have,
            units=self.units,
            awaited=self.awaited,
            step=self.step,
            probes=probes,
        )

    @property
    def all_awaited(self) -> frozenset[int]:
        return frozenset(piece for group in self.awaited for piece in group)

    def rank(self, piece: int) -> tuple[int, int]:
        """When the piece is computed with: in which unit first, and where in it."""
        units = [number for number, unit in enumerate(self.units) if piece in unit]
        return min(units, default=len(self.units)), piece


@st.composite
def situations(draw: st.DrawFn, *, awaits: bool = True) -> Situation:
    """Units in any order; they overlap, as those of neighbouring blocks do."""
    num_pieces = draw(st.integers(1, MAX_PIECES))
    some = st.frozensets(st.integers(0, num_pieces - 1))
    runs = st.builds(
        lambda start, size: frozenset(range(start, min(num_pieces, start + size))),
        st.integers(0, num_pieces - 1),
        st.integers(1, 8),
    )
    return Situation(
        num_pieces=num_pieces,
        wanted=draw(some | st.just(frozenset(range(num_pieces)))),
        have=draw(some),
        units=draw(st.lists(runs | some, min_size=0 if awaits else 1, max_size=6)),
        awaited=draw(st.lists(some, max_size=3)) if awaits else [],
        step=draw(st.integers(1, 6)),
    )


CHOICES = st.integers(0, 1 << 32).map(lambda seed: random.Random(seed).choice)


def next_piece(order: FetchOrder, missing: set[int], choose: Choice) -> int | None:
    """The nearest deadline; then any of those with the highest priority."""
    if urgent := order.deadlines_ms.keys() & missing:
        return min(urgent, key=lambda piece: order.deadlines_ms[piece])
    highest = max((order.priorities[piece] for piece in missing), default=UNWANTED)
    if highest == UNWANTED:
        return None
    return choose([piece for piece in sorted(missing) if order.priorities[piece] == highest])


def download(
    situation: Situation, choose: Choice, num_at_once: int = 1
) -> Iterator[tuple[int, set[int], set[int]]]:
    """Fetches until nothing is asked for; yields each piece, what else is not asked for, what is here.

    Up to `num_at_once` pieces are on their way together; the oldest of them arrives next.
    """
    have = set(situation.have)
    coming: list[int] = []
    while True:
        order = situation.order(have)
        while len(coming) < num_at_once:
            missing = set(range(situation.num_pieces)) - have - set(coming)
            piece = next_piece(order, missing, choose)
            if piece is None:
                break
            yield piece, missing - {piece}, set(have)
            coming.append(piece)
        if not coming:
            return
        have.add(coming.pop(0))


@given(situations(), CHOICES, st.integers(1, 5))
def test_everything_wanted_arrives_and_nothing_else(
    situation: Situation, choose: Choice, num_at_once: int
) -> None:
    """Each piece once; whatever waits for whatever, something is always asked for until all is here."""
    asked = [piece for piece, *_ in download(situation, choose, num_at_once)]
    needed = (situation.wanted | situation.all_awaited) - situation.have
    assert sorted(asked) == sorted(needed)


@given(situations())
def test_what_nobody_wants_is_never_asked_for(situation: Situation) -> None:
    """A piece outside of what is wanted or awaited has priority zero, and no deadline."""
    order = situation.order(situation.have)
    assert len(order.priorities) == situation.num_pieces
    asked = {piece for piece, priority in enumerate(order.priorities) if priority != UNWANTED}
    assert asked == situation.wanted | (situation.all_awaited - situation.have)
    assert all(UNWANTED <= priority <= 7 for priority in order.priorities)


@given(situations(awaits=False), CHOICES, st.integers(1, 5))
def test_pieces_come_in_the_order_of_computing(
    situation: Situation, choose: Choice, num_at_once: int
) -> None:
    """Step by step from the first piece that is not here: no earlier step has one to ask for still.

    There are seven priorities: what is more than six steps away is one step.
    """
    ordered = sorted(situation.wanted, key=situation.rank)
    for piece, missing, have in download(situation, choose, num_at_once):
        first = next(i for i, other in enumerate(ordered) if other not in have)
        steps = {
            other: min(6, (i - first) // situation.step)
            for i, other in enumerate(ordered)
            if other in missing or other == piece
        }
        assert steps[piece] == min(steps.values())


@given(situations(awaits=False))
def test_a_unit_is_here_before_later_ones_go_far(situation: Situation) -> None:
    """Until a unit is whole, fewer than `step` pieces come that only later ones hold.

    Also with a downloader that would always take the last of those that it may take now.
    """
    for number, unit in enumerate(situation.units):
        earlier = frozenset().union(*situation.units[: number + 1])
        lacks = set(unit & situation.wanted - situation.have)
        ahead = 0
        for piece, *_ in download(situation, lambda open_: max(open_, key=situation.rank)):
            if not lacks:
                break
            ahead += piece not in earlier
            lacks.discard(piece)
        assert not lacks
        assert ahead < situation.step


@given(situations(awaits=False))
def test_without_units_all_pieces_are_alike(situation: Situation) -> None:
    """Which of them come first is then for the swarm: the rarest."""
    unordered = Situation(
        situation.num_pieces, situation.wanted, situation.have, [], [], situation.step
    )
    priorities = unordered.order(situation.have).priorities
    assert len({priorities[piece] for piece in situation.wanted}) <= 1


@given(situations(), CHOICES)
def test_awaited_pieces_come_first(situation: Situation, choose: Choice) -> None:
    """In the order of asking, and within one question by number, whether wanted or not."""
    missing = situation.all_awaited - situation.have
    asked = [piece for piece, *_ in download(situation, choose)]
    expected: list[int] = []
    for group in situation.awaited:
        expected += sorted(group - situation.have - set(expected))
    assert asked[: len(missing)] == expected


@given(situations())
def test_only_what_is_awaited_has_a_deadline(situation: Situation) -> None:
    """Each later than the one before, the first of the first question soonest, few at a time."""
    order = situation.order(situation.have)
    missing = situation.all_awaited - situation.have
    assert order.deadlines_ms.keys() <= missing
    assert len(order.deadlines_ms) == min(len(missing), 16)
    assert all(0 < a < b for a, b in pairwise([0.5, *order.deadlines_ms.values()]))
    rest = situation.wanted - situation.have - missing
    assert all(
        order.priorities[urgent] >= order.priorities[piece]
        for urgent in order.deadlines_ms
        for piece in rest
    )


@given(CHOICES)
def test_a_head_that_is_stored_before_the_blocks_comes_after_them(choose: Choice) -> None:
    """As files have it: embedding, head, blocks."""
    blocks = [frozenset({i}) for i in range(5, 12)]
    units = [frozenset({0}), frozenset({0, 1, 2}), *blocks, frozenset({3, 4})]
    situation = Situation(12, frozenset(range(12)), frozenset(), units, [], 2)
    asked = [piece for piece, *_ in download(situation, choose)]
    assert set(asked[:3]) <= {0, 1, 2, 5} and not {3, 4} & set(asked[:9])


@given(CHOICES)
def test_an_embedding_that_is_stored_after_the_blocks_comes_before_them(choose: Choice) -> None:
    units = [frozenset({0}), frozenset({9, 10, 11}), *(frozenset({i}) for i in range(1, 9))]
    situation = Situation(12, frozenset(range(12)), frozenset(), units, [], 1)
    asked = [piece for piece, *_ in download(situation, choose)]
    assert asked == [0, 9, 10, 11, 1, 2, 3, 4, 5, 6, 7, 8]


def test_pieces_share_a_priority_by_their_size() -> None:
    """Four megabytes of them, or one that is larger."""
    assert [step_pieces(size) for size in (256 * KIB, MIB, 4 * MIB, 64 * MIB)] == [16, 4, 1, 1]


@given(situations(), st.integers(1, 4))
def test_probes_are_the_first_that_would_be_asked_for(situation: Situation, probes: int) -> None:
    """Few, the most wanted, with no deadlines; and all of it afterwards."""
    whole = situation.order(situation.have)
    few = situation.order(situation.have, probes=probes)
    asked = {p for p, x in enumerate(few.priorities) if x and p not in situation.have}
    missing = {p for p, x in enumerate(whole.priorities) if x and p not in situation.have}
    assert not few.deadlines_ms and asked <= missing and len(asked) == min(probes, len(missing))
    least = min((whole.priorities[p] for p in asked), default=UNWANTED)
    assert all(whole.priorities[p] <= least for p in missing - asked)
