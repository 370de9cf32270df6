"""Which cells of a KV cache belong to whom, and whose text can be built upon. Pure.

A sequence owns one extent: consecutive cells, cell `i` of it holding position `i` of its text. That
makes a sliding window a plain sub-range, a rollback a smaller length, and a shared prefix a copy.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from baremetalrt.blocks.prefix_store import AdapterKey, Match, PrefixKind, common_prefix
from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.owner import PUBLIC, THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import round_up

# Extents and what attention reads are multiples of this: a graph serves 256 tokens before it is rebuilt,
# and attention splits its sums where llama.cpp does, so that a single session gives its exact logits.
CELL_QUANTUM: Final = 256
# Blocks with a sliding window keep so many tokens beyond it, so that a text may be cut by a few turns,
# and give back what fell out in steps of so many.
_WINDOW_SLACK: Final = 4 * CELL_QUANTUM
_WINDOW_STEP: Final = 2 * CELL_QUANTUM
# A shorter common beginning is cheaper to compute again than to look after.
_MIN_SHARED: Final = 16


@dataclass(frozen=True, kw_only=True)
class SlidingWindows:
    """How blocks with a sliding window of `size` tokens give back what has fallen out of it.

    `num_texts`: how many texts may fill theirs; idle ones beyond that make way. `step_tokens`: of the
    longest step.
    """

    size: int
    num_texts: int
    step_tokens: int

    @property
    def text_cells(self) -> int:
        """The most that one text holds in such a block."""
        most = self.size + _WINDOW_SLACK + _WINDOW_STEP + self.step_tokens
        return round_up(most, CELL_QUANTUM)

    @property
    def num_cells(self) -> int:
        """The most that all texts hold in such a block."""
        return self.num_texts * self.text_cells

    def floor(self, length: int) -> int:
        """What a text of that length needs not go back before."""
        lowest = length - self.size + 1 - _WINDOW_SLACK
        return max(0, lowest // CELL_QUANTUM * CELL_QUANTUM)


class ExtentAllocator:
    """First-fit allocation of ranges of cells. Adjacent free ranges are always merged."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        # no cell from here on was ever given out
        self.high_water = 0
        self._free: list[tuple[int, int]] = [(0, num_cells)]
        # since somebody asked; some of it may have been taken again
        self._freed: list[tuple[int, int]] = []

    @property
    def num_free(self) -> int:
        return sum(end - start for start, end in self._free)

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """The ranges that are free, in order."""
        return list(self._free)

    def allocate(self, length: int) -> int | None:
        """The first cell of `length` free ones, or None when no gap is wide enough."""
        for i, (start, end) in enumerate(self._free):
            if end - start >= length:
                self._take(i, start, start + length)
                return start
        return None

    def extend(self, end: int, length: int) -> bool:
        """Takes the `length` cells that follow `end`, if they are free."""
        for i, (start, stop) in enumerate(self._free):
            if start == end and stop - start >= length:
                self._take(i, start, start + length)
                return True
        return False

    def compacted(self, start: int, end: int) -> None:
        """What is free from now on: one gap, after everything that was in use has moved."""
        self.high_water = max(self.high_water, start if end == self.num_cells else self.num_cells)
        self._free = [(start, end)] if start < end else []
        self._freed = [(0, self.num_cells)]

    def take_freed(self) -> list[tuple[int, int]]:
        """What was given back, or given up by its owner, since this was last asked."""
        freed, self._freed = self._freed, []
        return freed

    def note_freed(self, start: int, end: int) -> None:
        """An owner needs these cells no more as they are, but may fill them again."""
        self._freed.append((start, end))

    def free(self, start: int, length: int) -> None:
        """Gives cells back."""
        self._free = _merged([*self._free, (start, start + length)])
        self._freed.append((start, start + length))

    def _take(self, i: int, start: int, end: int) -> None:
        stop = self._free[i][1]
        self.high_water = max(self.high_water, end)
        self._free[i : i + 1] = [(end, stop)] if end < stop else []


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same cells in as few ranges as there can be, in order."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if merged and merged[-1][1] >= begin:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


@dataclass(eq=False)
class CachedSequence:
    """One text in the cache, token by token. `tokens` are those whose keys and values are stored.

    `part` says for which of the blocks; None for all. Others have nothing of it. `adapters` made these
    keys and values what they are: texts with others share nothing with it, nor do those of another
    `owner`, whose principal may hold `limit` cells in all, None for as many as there are.
    """

    first_cell: int
    capacity: int
    part: BlockSpan | None = None
    adapters: AdapterKey = ()
    owner: Owner = THIS_USER
    limit: int | None = None
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    active: bool = True
    last_used: int = 0
    # blocks with a sliding window have nothing of it before this position
    floor: int = 0
    # how many hold it as it is
    num_locks: int = 0
    # tokens from the beginning that are on disk, too
    num_saved: int = 0

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def num_windowed(self) -> int:
        """Tokens that blocks with a sliding window hold."""
        return max(0, self.length - self.floor)

    @property
    def kind(self) -> PrefixKind:
        return PrefixKind(self.part, self.adapters, self.owner)


@dataclass(frozen=True)
class CopyCells:
    """Copy `num_cells` cells; the ranges do not overlap.

    Blocks with a sliding window have nothing in the first `floor` of them.
    """

    source: int
    target: int
    num_cells: int
    floor: int = 0


@dataclass(frozen=True)
class FreedCells:
    """Ranges of cells that hold nothing any more: in every block, and in those with a sliding window."""

    everywhere: list[tuple[int, int]]
    windowed: list[tuple[int, int]]


@dataclass(frozen=True)
class Opened:
    """A sequence ready to go on at `sequence.length`, once the copies are made, in order.

    `donor`: whose beginning it has a copy of.
    """

    sequence: CachedSequence
    copies: tuple[CopyCells, ...]
    donor: CachedSequence | None = None


class NoRoomError(Exception):
    """There are too few cells, even without every idle sequence."""


class OverLimitError(NoRoomError):
    """The active sequences of one principal hold `held` cells, and may hold no more than `limit`."""

    def __init__(self, held: int, limit: int) -> None:
        super().__init__(held, limit)
        self.held, self.limit = held, limit


class SequenceTable:
    """All sequences of one KV cache: active ones, and idle ones kept for their beginnings."""

    def __init__(
        self,
        num_cells: int,
        windows: SlidingWindows | None = None,
        *,
        max_sequences: int | None = None,
        can_cut: bool = True,
    ) -> None:
        """`can_cut`: a text can go on from within another; where not, only from its end."""
        self.allocator = ExtentAllocator(num_cells)
        self._windows = windows
        self.sequences: list[CachedSequence] = []
        self._max_sequences = max_sequences
        self._can_cut = can_cut
        # goes up with every use
        self.clock = 0

    def open(
        self,
        tokens: Sequence[int],
        capacity: int,
        part: BlockSpan | None = None,
        adapters: AdapterKey = (),
        owner: Owner = THIS_USER,
        limit: int | None = None,
    ) -> Opened:
        """A sequence with room for `capacity` tokens that shares what it can of `tokens`.

        The last token is never taken from the cache: its logits are wanted. Of other owners nothing
        is taken, however alike, but of what is public; that is copied, and nobody goes on with it.

        Raises:
            OverLimitError: those of the owner's principal hold `limit` cells, or nearly.
            NoRoomError: active sequences hold too many cells.
        """
        capacity = round_up(max(capacity, len(tokens)), CELL_QUANTUM)
        match = self.match(PrefixKind(part, adapters, owner), tokens[:-1])
        length, donor = match.length, match.stored
        can_adopt = donor in self._idle() and donor is not None and donor.owner == owner
        # Where nothing can be cut, what one goes on with is no longer there to go back to.
        is_mostly_shared = self._can_cut and donor is not None and 2 * length > donor.length
        if donor is not None and can_adopt and is_mostly_shared:
            return self._adopt(donor, length, capacity, limit)
        copies: list[CopyCells] = []
        with self.lock(donor) if donor is not None else nullcontext():
            try:
                self._make_way(owner, capacity, limit)
                self._make_windowed_way(owner, capacity)
                first_cell = self._allocate(capacity, owner)
            except OverLimitError:
                if not can_adopt:
                    raise
                first_cell = None
        if first_cell is None and donor is not None and can_adopt:
            return self._adopt(donor, length, capacity, limit)
        if first_cell is None and not self._is_crowded and self.allocator.num_free >= capacity:
            copies += self._compact()
            first_cell = self.allocator.allocate(capacity)
        if first_cell is None:
            raise NoRoomError
        sequence = CachedSequence(first_cell, capacity, part, adapters, owner, limit)
        self.sequences.append(sequence)
        self._touch(sequence)
        if donor is not None:
            sequence.tokens.extend(donor.tokens[:length])
            sequence.floor = donor.floor
            self._touch(donor)
            copies.append(CopyCells(donor.first_cell, first_cell, length, donor.floor))
        return Opened(sequence, tuple(copies), donor)

    def match(self, kind: PrefixKind, tokens: Sequence[int]) -> Match[CachedSequence]:
        """The text that shares most with `tokens`, of the owner's and of those that are public."""
        wanted = np.asarray(tokens, dtype=np.int32)
        alike = [s for s in self.sequences if s.kind in (kind, replace(kind, owner=PUBLIC))]
        shared = [(common_prefix(s.tokens, wanted), s) for s in alike]
        found = [
            (n, s)
            for n, s in shared
            if n >= _MIN_SHARED and self.can_go_on(n, s.floor) and (self._can_cut or n == s.length)
        ]
        length, stored = max(found, key=lambda f: (f[0], not f[1].active), default=(0, None))
        return Match(length, stored)

    def grow(self, sequence: CachedSequence, capacity: int) -> tuple[CopyCells, ...]:
        """Makes room for `capacity` tokens, moving the sequence where it must; raises like `open`."""
        capacity = round_up(capacity, CELL_QUANTUM)
        more = capacity - sequence.capacity
        if more <= 0:
            return ()
        self._make_way(sequence.owner, more, sequence.limit)
        self._make_windowed_way(sequence.owner, more)
        copies: tuple[CopyCells, ...] = ()
        while not self.allocator.extend(sequence.first_cell + sequence.capacity, more):
            first_cell = self.allocator.allocate(capacity)
            if first_cell is not None:
                self.allocator.free(sequence.first_cell, sequence.capacity)
                copies = _copies(sequence, first_cell)
                sequence.first_cell = first_cell
                break
            if self._evict(sequence.owner):
                continue
            if self.allocator.num_free < more:
                raise NoRoomError
            copies = self._compact(around=sequence)
        sequence.capacity = capacity
        return copies

    def can_go_on(self, length: int, floor: int) -> bool:
        """Whether blocks with a window that keep nothing before `floor` have what comes next sees."""
        return not (floor and self._windows) or floor <= length - self._windows.size + 1

    def slide(self, sequence: CachedSequence) -> bool:
        """Gives up what has fallen out of windows, once that is enough; says whether it was."""
        floor = self._windows.floor(sequence.length) if self._windows is not None else 0
        if floor < sequence.floor + _WINDOW_STEP:
            return False
        first = sequence.first_cell
        self.allocator.note_freed(first + sequence.floor, first + floor)
        sequence.floor = floor
        return True

    def truncate(self, sequence: CachedSequence, length: int) -> None:
        """Forgets all but the first `length` tokens; all of them where windows have slid past those."""
        if not self.can_go_on(length, sequence.floor):
            length = 0
        end = _end_of(sequence)
        del sequence.tokens[length:]
        sequence.floor = sequence.floor if length else 0
        sequence.num_saved = min(sequence.num_saved, length)
        self.allocator.note_freed(_end_of(sequence), end)

    def take_freed(self) -> FreedCells:
        """Cells that hold nothing any more, and did since this was last asked; after all copies."""
        freed = self.allocator.take_freed()
        used = [(s.first_cell, _end_of(s)) for s in self.sequences]
        windowed = [(min(s.first_cell + s.floor, _end_of(s)), _end_of(s)) for s in self.sequences]
        return FreedCells(
            self._unused(freed, used), self._unused(freed, windowed) if self._windows else []
        )

    def _unused(
        self, freed: list[tuple[int, int]], used: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """What of `freed` nobody uses.

        Where the neighbours are not used either, ranges reach a quantum further: cells there may lie in
        the same page of memory as the last ones here.
        """
        used = sorted(used)
        ends = [0, *(end for _, end in used)]
        starts = [*(start for start, _ in used), self.allocator.num_cells]
        return _merged(
            [
                (max(start, begin - CELL_QUANTUM), min(end, stop + CELL_QUANTUM))
                for start, end in zip(ends, starts, strict=True)
                for begin, stop in freed
                if begin < end and start < stop
            ]
        )

    def close(self, sequence: CachedSequence, *, keep: bool) -> None:
        """Ends a sequence; `keep` leaves its text for later ones to build upon."""
        if not keep or sequence.length < _MIN_SHARED:
            self.drop(sequence)
            return
        self.insert(sequence)

    def insert(self, text: CachedSequence) -> None:
        """A text that its session has left is idle, for later ones to build upon."""
        text.active = False
        self._shrink(text, round_up(text.length, CELL_QUANTUM))
        self._touch(text)

    @contextmanager
    def lock(self, stored: CachedSequence) -> Iterator[None]:
        """Nobody evicts or cuts it meanwhile; to move it is no change."""
        stored.num_locks += 1
        try:
            yield
        finally:
            stored.num_locks -= 1

    def evict(self, size: int) -> int:
        """Forgets idle texts, those unused for longest first, until `size` cells are free."""
        while self.allocator.num_free < size:
            idle = self._idle()
            if not idle:
                break
            self.drop(min(idle, key=lambda s: s.last_used))
        return self.allocator.num_free

    def unused_since(self, clock: int | None = None) -> list[CachedSequence]:
        """Idle texts that nobody has used since the clock of the table stood at `clock`; None: all."""
        return [s for s in self._idle() if clock is None or s.last_used <= clock]

    def check(self) -> None:
        """Every cell is free or belongs to one text, and no text is longer than its extent."""
        owned = [(s.first_cell, s.first_cell + s.capacity) for s in self.sequences]
        edges = [0, *(edge for pair in sorted([*owned, *self.allocator.gaps]) for edge in pair)]
        edges.append(self.allocator.num_cells)
        if any(a != b for a, b in zip(edges[::2], edges[1::2], strict=True)):
            raise IntegrityError("cells are lost, or belong to two texts", source="cache")
        if any(s.length > s.capacity for s in self.sequences):
            raise IntegrityError("a text is longer than its extent", source="cache")

    def bookmark(self, sequence: CachedSequence) -> CachedSequence | None:
        """An idle copy of a text as it is now, where texts cannot be cut; None without room for one."""
        owner, capacity = sequence.owner, round_up(sequence.length, CELL_QUANTUM)
        idle = [s for s in self.sequences if not s.active]
        if sequence.length < _MIN_SHARED or any(
            s.owner == owner and s.tokens == sequence.tokens for s in idle
        ):
            return None
        if self.allocator.num_free + sum(s.capacity for s in idle) < capacity:
            return None
        first_cell = self._allocate(capacity, owner)
        if first_cell is None:
            return None
        copy = CachedSequence(first_cell, capacity, sequence.part, sequence.adapters, owner)
        copy.tokens.extend(sequence.tokens)
        copy.active = False
        self.sequences.append(copy)
        self._touch(copy)
        return copy

    def forget_idle(self) -> None:
        """Forgets every text that nobody goes on with now."""
        for sequence in self._idle():
            self.drop(sequence)

    @property
    def _is_crowded(self) -> bool:
        return self._max_sequences is not None and len(self.sequences) >= self._max_sequences

    def num_cells_of(self, principal: str) -> int:
        """Cells that texts of a principal hold, those kept for their beginnings included."""
        return sum(s.capacity for s in self.sequences if s.owner.principal == principal)

    def _shrink(self, sequence: CachedSequence, capacity: int) -> None:
        spare = sequence.capacity - capacity
        if spare > 0:
            sequence.capacity = capacity
            self.allocator.free(sequence.first_cell + capacity, spare)

    def _make_way(self, owner: Owner, more: int, limit: int | None) -> None:
        """A principal at its limit makes room for `more` cells out of what is kept for it."""
        if limit is None:
            return
        while (held := self.num_cells_of(owner.principal)) + more > limit:
            if not self._evict(owner, is_own=True):
                raise OverLimitError(held, limit)

    def _make_windowed_way(self, owner: Owner, more: int) -> None:
        """Idle texts go where blocks with a window would hold more than memory was reckoned for."""
        windows = self._windows
        if windows is None:
            return
        free = windows.num_cells - min(more, windows.text_cells)
        while sum(s.num_windowed for s in self.sequences) > free and self._evict(owner):
            pass

    def _adopt(
        self, donor: CachedSequence, length: int, capacity: int, limit: int | None
    ) -> Opened:
        self.truncate(donor, length)
        self._shrink(donor, capacity)
        donor.active, donor.limit = True, limit
        self._touch(donor)
        try:
            return Opened(donor, self.grow(donor, capacity))
        except NoRoomError:
            donor.active = False
            raise

    def _allocate(self, capacity: int, owner: Owner) -> int | None:
        while self._is_crowded or (first_cell := self.allocator.allocate(capacity)) is None:
            if not self._evict(owner):
                return None
        return first_cell

    def _evict(self, owner: Owner, *, is_own: bool = False) -> bool:
        """Forgets the idle sequence that was not used for longest; False when there is none.

        What the principal itself left goes before what others did; with `is_own`, nothing else does.
        """
        idle = self._idle()
        own = [s for s in idle if s.owner.principal == owner.principal]
        candidates = own if own or is_own else idle
        if not candidates:
            return False
        self.drop(min(candidates, key=lambda s: s.last_used))
        return True

    def _compact(self, *, around: CachedSequence | None = None) -> tuple[CopyCells, ...]:
        """Moves all sequences together, so that what is free is one gap: at the end, or behind `around`.

        Cells that were promised to `max_sessions` texts are so theirs in whatever order texts came and
        went. The copies must be made in order.
        """
        ordered = sorted(self.sequences, key=lambda s: s.first_cell)
        low = len(ordered) if around is None else ordered.index(around) + 1
        copies: list[CopyCells] = []
        start, end = 0, self.allocator.num_cells
        for s in ordered[:low]:
            copies += _copies(s, start)
            s.first_cell = start
            start += s.capacity
        for s in reversed(ordered[low:]):
            end -= s.capacity
            copies += _copies(s, end)
            s.first_cell = end
        self.allocator.compacted(start, end)
        return tuple(copies)

    def _idle(self) -> list[CachedSequence]:
        return [s for s in self.sequences if not s.active and not s.num_locks]

    def drop(self, sequence: CachedSequence) -> None:
        """Forgets a text, which nobody uses or holds."""
        self.sequences.remove(sequence)
        self.allocator.free(sequence.first_cell, sequence.capacity)

    def _touch(self, sequence: CachedSequence) -> None:
        self.clock += 1
        sequence.last_used = self.clock


def _end_of(sequence: CachedSequence) -> int:
    """Where the quanta of cells end that hold tokens of a text."""
    return sequence.first_cell + round_up(sequence.length, CELL_QUANTUM)


def _copies(sequence: CachedSequence, target: int) -> tuple[CopyCells, ...]:
    """Copies to another extent: several, none of which overlaps itself, where the two extents do."""
    source, num_cells = sequence.first_cell, sequence.length
    step = abs(source - target)
    if not step:
        return ()
    # Whatever lies in the way of a piece must have moved before.
    starts = range(0, num_cells, step)
    pieces = ((i, min(step, num_cells - i)) for i in (starts if target < source else starts[::-1]))
    return tuple(
        CopyCells(source + i, target + i, n, min(n, max(0, sequence.floor - i))) for i, n in pieces
    )
