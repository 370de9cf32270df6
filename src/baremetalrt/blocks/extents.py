"""Which cells of a KV cache belong to whom, and whose text can be built upon. Pure.

A sequence owns one extent: consecutive cells, cell `i` of it holding position `i` of its text. That
makes a sliding window a plain sub-range, a rollback a smaller length, and a shared prefix a copy.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.owner import PUBLIC, THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import round_up

# Extents and what attention reads are multiples of this: a graph serves 256 tokens before it is rebuilt,
# and attention splits its sums where llama.cpp does, so that a single session gives its exact logits.
CELL_QUANTUM: Final = 256
# Adapters that a text is computed with: digest and weight of each, in order.
AdapterKey = tuple[tuple[str, float], ...]
# A shorter common beginning is cheaper to compute again than to look after.
_MIN_SHARED: Final = 16


class ExtentAllocator:
    """First-fit allocation of ranges of cells. Adjacent free ranges are always merged."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        # no cell from here on was ever given out
        self.high_water = 0
        self._free: list[tuple[int, int]] = [(0, num_cells)]

    @property
    def num_free(self) -> int:
        return sum(end - start for start, end in self._free)

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

    def free(self, start: int, length: int) -> None:
        """Gives cells back."""
        self._free.append((start, start + length))
        self._free.sort()
        merged: list[tuple[int, int]] = []
        for begin, end in self._free:
            if merged and merged[-1][1] == begin:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((begin, end))
        self._free = merged

    def _take(self, i: int, start: int, end: int) -> None:
        stop = self._free[i][1]
        self.high_water = max(self.high_water, end)
        self._free[i : i + 1] = [(end, stop)] if end < stop else []


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

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class CopyCells:
    """Copy `num_cells` cells; the ranges do not overlap."""

    source: int
    target: int
    num_cells: int


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
        self, num_cells: int, *, max_sequences: int | None = None, can_cut: bool = True
    ) -> None:
        """`can_cut`: a text can go on from within another; where not, only from its end."""
        self.allocator = ExtentAllocator(num_cells)
        self.sequences: list[CachedSequence] = []
        self._max_sequences = max_sequences
        self._can_cut = can_cut
        self._clock = 0

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
        wanted = np.asarray(tokens[:-1], dtype=np.int32)
        kind, owners = (part, adapters), (owner, PUBLIC)
        alike = [s for s in self.sequences if (s.part, s.adapters) == kind and s.owner in owners]
        shared = [(common_prefix(s.tokens, wanted), s) for s in alike]
        donors = [
            (n, s) for n, s in shared if n >= _MIN_SHARED and (self._can_cut or n == s.length)
        ]
        length, donor = max(donors, key=lambda d: (d[0], not d[1].active), default=(0, None))
        can_adopt = donor is not None and not donor.active and donor.owner == owner
        # Where nothing can be cut, what one goes on with is no longer there to go back to.
        is_mostly_shared = self._can_cut and donor is not None and 2 * length > donor.length
        if donor is not None and can_adopt and is_mostly_shared:
            return self._adopt(donor, length, capacity, limit)
        copies: list[CopyCells] = []
        try:
            self._make_way(owner, capacity, limit, keep=donor)
            first_cell = self._allocate(capacity, owner, keep=donor)
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
            self._touch(donor)
            copies.append(CopyCells(donor.first_cell, first_cell, length))
        return Opened(sequence, tuple(copies), donor)

    def grow(self, sequence: CachedSequence, capacity: int) -> tuple[CopyCells, ...]:
        """Makes room for `capacity` tokens, moving the sequence where it must; raises like `open`."""
        capacity = round_up(capacity, CELL_QUANTUM)
        more = capacity - sequence.capacity
        if more <= 0:
            return ()
        self._make_way(sequence.owner, more, sequence.limit, keep=sequence)
        copies: tuple[CopyCells, ...] = ()
        while not self.allocator.extend(sequence.first_cell + sequence.capacity, more):
            first_cell = self.allocator.allocate(capacity)
            if first_cell is not None:
                self.allocator.free(sequence.first_cell, sequence.capacity)
                copies = _copies(sequence.first_cell, first_cell, sequence.length)
                sequence.first_cell = first_cell
                break
            if self._evict(sequence.owner, keep=sequence):
                continue
            if self.allocator.num_free < more:
                raise NoRoomError
            copies = self._compact(around=sequence)
        sequence.capacity = capacity
        return copies

    def close(self, sequence: CachedSequence, *, keep: bool) -> None:
        """Ends a sequence; `keep` leaves its text for later ones to build upon."""
        if not keep or sequence.length < _MIN_SHARED:
            self._drop(sequence)
            return
        sequence.active = False
        self._shrink(sequence, round_up(sequence.length, CELL_QUANTUM))
        self._touch(sequence)

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
        first_cell = self._allocate(capacity, owner, keep=sequence)
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
        for sequence in [s for s in self.sequences if not s.active]:
            self._drop(sequence)

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

    def _make_way(
        self, owner: Owner, more: int, limit: int | None, *, keep: CachedSequence | None
    ) -> None:
        """A principal at its limit makes room for `more` cells out of what is kept for it."""
        if limit is None:
            return
        while (held := self.num_cells_of(owner.principal)) + more > limit:
            if not self._evict(owner, keep=keep, is_own=True):
                raise OverLimitError(held, limit)

    def _adopt(
        self, donor: CachedSequence, length: int, capacity: int, limit: int | None
    ) -> Opened:
        del donor.tokens[length:]
        self._shrink(donor, capacity)
        donor.active, donor.limit = True, limit
        self._touch(donor)
        try:
            return Opened(donor, self.grow(donor, capacity))
        except NoRoomError:
            donor.active = False
            raise

    def _allocate(self, capacity: int, owner: Owner, *, keep: CachedSequence | None) -> int | None:
        while self._is_crowded or (first_cell := self.allocator.allocate(capacity)) is None:
            if not self._evict(owner, keep=keep):
                return None
        return first_cell

    def _evict(self, owner: Owner, *, keep: CachedSequence | None, is_own: bool = False) -> bool:
        """Forgets the idle sequence that was not used for longest; False when there is none.

        What the principal itself left goes before what others did; with `is_own`, nothing else does.
        """
        idle = [s for s in self.sequences if not s.active and s is not keep]
        own = [s for s in idle if s.owner.principal == owner.principal]
        candidates = own if own or is_own else idle
        if not candidates:
            return False
        self._drop(min(candidates, key=lambda s: s.last_used))
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
            copies += _copies(s.first_cell, start, s.length)
            s.first_cell = start
            start += s.capacity
        for s in reversed(ordered[low:]):
            end -= s.capacity
            copies += _copies(s.first_cell, end, s.length)
            s.first_cell = end
        self.allocator.compacted(start, end)
        return tuple(copies)

    def _drop(self, sequence: CachedSequence) -> None:
        self.sequences.remove(sequence)
        self.allocator.free(sequence.first_cell, sequence.capacity)

    def _touch(self, sequence: CachedSequence) -> None:
        self._clock += 1
        sequence.last_used = self._clock


def _copies(source: int, target: int, num_cells: int) -> tuple[CopyCells, ...]:
    """Copies to another extent: several, none of which overlaps itself, where the two extents do."""
    step = abs(source - target)
    if not step:
        return ()
    # Whatever lies in the way of a piece must have moved before.
    starts = range(0, num_cells, step)
    return tuple(
        CopyCells(source + i, target + i, min(step, num_cells - i))
        for i in (starts if target < source else reversed(starts))
    )


def common_prefix(stored: "array[int]", wanted: NDArray[np.int32]) -> int:
    """How many tokens two texts share from their beginning."""
    n = min(len(stored), len(wanted))
    if n == 0:
        return 0
    differs = np.frombuffer(stored, np.int32)[:n] != wanted[:n]
    first = int(differs.argmax())
    return first if differs[first] else n
