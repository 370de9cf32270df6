"""Cells of the KV cache under any order of opening, computing, growing, cutting and closing.

The cache is a list here: a cell holds a number that depends on every token up to its own, as keys
and values do. A copy that is wrong, too late or overlapping leaves a wrong number behind.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from baremetalrt.blocks import extents
from baremetalrt.blocks.extents import (
    CELL_QUANTUM,
    CachedSequence,
    CopyCells,
    ExtentAllocator,
    NoRoomError,
    OverLimitError,
    SlidingWindows,
)
from baremetalrt.blocks.prefix_store import PrefixKind, common_prefix
from baremetalrt.blocks.sequence_table import SequenceTable
from baremetalrt.core.owner import Owner
from baremetalrt.core.units import round_up

NUM_CELLS = 8 * CELL_QUANTUM
MIN_SHARED = 16
# This user, and two members, one of whom has two clients.
OWNERS = (Owner(), Owner("a"), Owner("a", "x"), Owner("b"))
LIMIT = 3 * CELL_QUANTUM


@st.composite
def texts(draw: st.DrawFn) -> list[int]:
    """A beginning that many texts share, an end of its own."""
    shared = draw(st.sampled_from([0, 3, 15, 16, 17, 200, 255, 256, 257, 600, 1300]))
    own = draw(st.sampled_from([1, 2, 20, 300]))
    return [draw(st.integers(1, 2))] * shared + [draw(st.integers(3, 5))] * own


def content(tokens: list[int]) -> list[int]:
    """What the cells of a text must hold."""
    numbers, number = [], 0
    for token in tokens:
        number = hash((number, token))
        numbers.append(number)
    return numbers


def shared_tokens(a: list[int], b: list[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


class Cache(RuleBasedStateMachine):
    """A table of sequences beside the simplest cache it can direct."""

    active = Bundle("active")
    windows: SlidingWindows | None = None

    @initialize()
    def start(self) -> None:
        self.table = SequenceTable(NUM_CELLS, self.windows)
        self.cells = [0] * NUM_CELLS
        # of blocks with a sliding window
        self.windowed = [0] * NUM_CELLS

    def num_free(self, *, without: CachedSequence | None = None) -> int:
        """Cells that no active sequence owns; those of `without` are not counted as owned."""
        owned = (s.capacity for s in self.table.sequences if s.active and s is not without)
        return NUM_CELLS - sum(owned)

    def carry_out(self, copies: tuple[CopyCells, ...]) -> None:
        for c in copies:
            assert c.num_cells > 0 and abs(c.source - c.target) >= c.num_cells
            self.cells[c.target : c.target + c.num_cells] = self.cells[
                c.source : c.source + c.num_cells
            ]
            assert 0 <= c.floor <= c.num_cells
            self.windowed[c.target + c.floor : c.target + c.num_cells] = self.windowed[
                c.source + c.floor : c.source + c.num_cells
            ]
        self.give_back()

    def give_back(self) -> None:
        """What was freed reads as zeros from now on."""
        freed = self.table.take_freed()
        for cells, ranges in ((self.cells, freed.everywhere), (self.windowed, freed.windowed)):
            for start, end in ranges:
                cells[start:end] = [0] * (end - start)

    def compute(self, sequence: CachedSequence, tokens: list[int]) -> None:
        sequence.tokens.extend(tokens)
        numbers = content(sequence.tokens.tolist())
        for i in range(sequence.length - len(tokens), sequence.length):
            self.cells[sequence.first_cell + i] = numbers[i]
            self.windowed[sequence.first_cell + i] = numbers[i]
        self.table.slide(sequence)
        self.give_back()

    def num_active(self, owner: Owner) -> int:
        """Cells of the active texts of a principal."""
        mine = (s for s in self.table.sequences if s.owner.principal == owner.principal)
        return sum(s.capacity for s in mine if s.active)

    def is_there(self, length: int, floor: int) -> bool:
        """Whether blocks with a window have all that the next token sees."""
        return not floor or (self.windows is not None and length - self.windows.size + 1 >= floor)

    @rule(
        target=active,
        text=texts(),
        more=st.sampled_from([0, 1, 256, 500]),
        owner=st.sampled_from(OWNERS),
    )
    def open(self, text: list[int], more: int, owner: Owner) -> object:
        """A text stands after the longest beginning that a stored text of its owner shares with it."""
        own = [s for s in self.table.sequences if s.owner == owner]
        shared = [(shared_tokens(s.tokens.tolist(), text[:-1]), s.floor) for s in own]
        longest = max((n for n, floor in shared if self.is_there(n, floor)), default=0)
        capacity = len(text) + more
        limit = LIMIT if owner.principal else None
        try:
            opened = self.table.open(text, capacity, owner=owner, limit=limit)
        except OverLimitError:
            self.give_back()
            assert self.num_active(owner) + round_up(capacity, CELL_QUANTUM) > LIMIT
            return multiple()
        except NoRoomError:
            self.give_back()
            assert self.num_free() < round_up(capacity, CELL_QUANTUM)
            return multiple()
        self.carry_out(opened.copies)
        sequence = opened.sequence
        assert sequence.active and sequence.capacity >= capacity
        assert sequence.tokens.tolist() == text[: longest if longest >= MIN_SHARED else 0]
        self.compute(sequence, text[sequence.length :])
        return sequence

    @rule(sequence=active, count=st.integers(1, 300), token=st.integers(1, 5))
    def extend(self, sequence: CachedSequence, count: int, token: int) -> None:
        self.compute(sequence, [token] * min(count, sequence.capacity - sequence.length))

    @rule(sequence=active, more=st.integers(1, 800))
    def grow(self, sequence: CachedSequence, more: int) -> None:
        """Room is refused only where there are too few cells, wherever they lie."""
        capacity = sequence.capacity + more
        before = sequence.tokens.tolist()
        try:
            self.carry_out(self.table.grow(sequence, capacity))
        except OverLimitError:
            self.give_back()
            more = round_up(capacity, CELL_QUANTUM) - sequence.capacity
            assert self.num_active(sequence.owner) + more > LIMIT
            return
        except NoRoomError:
            self.give_back()
            assert self.num_free(without=sequence) < round_up(capacity, CELL_QUANTUM)
            return
        assert sequence.capacity >= capacity and sequence.tokens.tolist() == before

    @rule(sequence=active, share=st.floats(0, 1))
    def truncate(self, sequence: CachedSequence, share: float) -> None:
        length, floor = int(share * sequence.length), sequence.floor
        self.table.truncate(sequence, length)
        self.give_back()
        assert sequence.length == (length if self.is_there(length, floor) else 0)

    @rule(sequence=consumes(active), keep=st.booleans())
    def close(self, sequence: CachedSequence, keep: bool) -> None:
        self.table.close(sequence, keep=keep)
        self.give_back()
        assert (sequence in self.table.sequences) == (keep and sequence.length >= MIN_SHARED)

    @rule(sequence=active, text=texts())
    def hold(self, sequence: CachedSequence, text: list[int]) -> None:
        """What somebody holds survives a text that takes all the room there is, whole."""
        match = self.table.match(PrefixKind(owner=OWNERS[0]), text)
        if match.stored is None or match.stored.active:
            return
        with self.table.lock(match.stored):
            before = match.stored.tokens.tolist()
            free = self.table.evict(NUM_CELLS)
            self.give_back()
            assert free == self.table.allocator.num_free
            assert match.stored in self.table.sequences and match.stored.tokens.tolist() == before

    @rule(size=st.integers(0, NUM_CELLS))
    def evict(self, size: int) -> None:
        """No more goes than must, and never what is in use."""
        idle = [s.capacity for s in self.table.sequences if not s.active]
        before = self.table.allocator.num_free
        free = self.table.evict(size)
        self.give_back()
        assert free >= min(size, before + sum(idle)) and free == self.table.allocator.num_free
        assert free == before if before >= size else free - max(idle, default=0) < size

    @invariant()
    def books_are_right(self) -> None:
        self.table.check()

    @invariant()
    def live_extents_never_overlap(self) -> None:
        extents = sorted((s.first_cell, s.first_cell + s.capacity) for s in self.table.sequences)
        edges = [(0, 0), *extents, (NUM_CELLS, NUM_CELLS)]
        assert all(a[1] <= b[0] for a, b in pairwise(edges))
        assert all(start % CELL_QUANTUM == end % CELL_QUANTUM == 0 for start, end in extents)

    @invariant()
    def every_cell_is_free_or_owned(self) -> None:
        owned = sum(s.capacity for s in self.table.sequences)
        assert owned + self.table.allocator.num_free == NUM_CELLS

    @invariant()
    def what_holds_nothing_was_given_back(self) -> None:
        """Quanta without a token read as zeros, be they somebody's or nobody's."""
        used = [
            (s.first_cell, s.first_cell + round_up(s.length, CELL_QUANTUM))
            for s in self.table.sequences
        ]
        empty = [i for i in range(NUM_CELLS) if not any(a <= i < b for a, b in used)]
        assert not any(self.cells[i] for i in empty)

    @invariant()
    def no_member_holds_more_than_its_limit(self) -> None:
        assert all(self.table.num_cells_of(name) <= LIMIT for name in ("a", "b"))

    @invariant()
    def cells_hold_their_text(self) -> None:
        for s in self.table.sequences:
            assert s.length <= s.capacity
            stored = self.cells[s.first_cell : s.first_cell + s.length]
            assert stored == content(s.tokens.tolist())
            if self.windows is not None:
                seen = slice(s.first_cell + s.floor, s.first_cell + s.length)
                assert self.windowed[seen] == content(s.tokens.tolist())[s.floor :]

    def teardown(self) -> None:
        """Once everybody has left, one text may have the whole cache, and leaves it empty."""
        for s in [s for s in self.table.sequences if s.active]:
            self.table.close(s, keep=False)
        last = self.table.open([9], NUM_CELLS).sequence
        assert self.table.sequences == [last]
        self.table.close(last, keep=False)
        assert self.table.allocator.num_free == NUM_CELLS


class WindowedCache(Cache):
    """The same with blocks that see 40 tokens, and keep few more."""

    windows = SlidingWindows(size=40, num_texts=3, step_tokens=300)

    @invariant()
    def what_fell_out_of_windows_was_given_back(self) -> None:
        """But for the cells of texts that were moved over themselves."""
        for s in self.table.sequences:
            assert s.floor % CELL_QUANTUM == 0 and self.is_there(s.length, s.floor)
            assert s.length - s.floor <= 40 + 2 * CELL_QUANTUM + 300


@pytest.fixture(autouse=True, scope="module")
def little_slack() -> Iterator[None]:
    """So that texts of this size slide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extents, "_WINDOW_SLACK", 0)
        patch.setattr(extents, "_WINDOW_STEP", CELL_QUANTUM)
        yield


TestWindowedCache = WindowedCache.TestCase
TestWindowedCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_adjacent_gaps_are_one() -> None:
    """Cells given back in any order can be taken in one piece again."""
    allocator = ExtentAllocator(1024)
    starts = [allocator.allocate(256) for _ in range(4)]
    assert starts == [0, 256, 512, 768] and allocator.allocate(256) is None
    for start in (512, 0, 768, 256):
        allocator.free(start, 256)
    assert allocator.allocate(1024) == 0


def test_a_text_that_fills_the_cache_slides_down() -> None:
    """A lone text at the end of the cache grows into all of it, once idle ones are forgotten."""
    table = SequenceTable(1024)
    table.close(_opened(table, [1] * 300), keep=True)
    sequence = _opened(table, [2] * 300)
    assert sequence.first_cell == 512
    copies = table.grow(sequence, 1024)
    assert (sequence.first_cell, sequence.capacity) == (0, 1024)
    assert sum(c.num_cells for c in copies) == 300
    assert table.sequences == [sequence]


def test_cells_in_scattered_gaps_are_room_too() -> None:
    """Two gaps of half the size make room for a third text, and neighbours move for a longer one."""
    table = SequenceTable(2048)
    texts = [_opened(table, [token] * 512) for token in range(4)]
    for i in (0, 2):
        table.close(texts[i], keep=False)
    opened = table.open([7] * 1024, 1024)
    assert opened.copies and opened.sequence.first_cell == 1024
    table.close(opened.sequence, keep=False)
    assert table.grow(texts[1], 1536) and texts[3].first_cell == 1536


def test_the_idle_text_unused_for_longest_goes_first() -> None:
    """What was built upon lately stays."""
    table = SequenceTable(768)
    for token in (1, 2, 3):
        table.close(_opened(table, [token] * 100), keep=True)
    table.close(table.open([1] * 101, 101).sequence, keep=True)
    _opened(table, [4] * 100)
    assert [s.tokens[0] for s in table.sequences] == [1, 3, 4]


def test_common_prefix_counts_equal_tokens() -> None:
    """Of an empty text, a shorter one, and one that differs."""
    sequence = CachedSequence(0, 256)
    sequence.tokens.extend([1, 2, 3])
    for wanted, expected in (([], 0), ([1, 2], 2), ([1, 2, 3, 4], 3), ([1, 9, 3], 1), ([9], 0)):
        assert common_prefix(sequence.tokens, np.array(wanted, dtype=np.int32)) == expected


def _opened(table: SequenceTable, tokens: list[int]) -> CachedSequence:
    sequence = table.open(tokens, len(tokens)).sequence
    sequence.tokens.extend(tokens[sequence.length :])
    return sequence
