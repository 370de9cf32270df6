"""Which texts of a KV cache there are, who may build upon which, and who makes way. Pure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Final

import numpy as np

from baremetalrt.blocks.extents import (
    CELL_QUANTUM,
    CachedSequence,
    CopyCells,
    ExtentAllocator,
    FreedCells,
    NoRoomError,
    Opened,
    OverLimitError,
    SlidingWindows,
    merged,
)
from baremetalrt.blocks.prefix_store import AdapterKey, Match, PrefixKind, common_prefix
from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.owner import PUBLIC, THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import round_up

# A shorter common beginning is cheaper to compute again than to look after.
_MIN_SHARED: Final = 16


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
        if self._windows is None:
            return False
        floor = self._windows.next_floor(sequence.length, sequence.floor)
        if floor == sequence.floor:
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
        return merged(
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

    def forget_all(self) -> None:
        """Forgets every text, whoever goes on with it."""
        for sequence in list(self.sequences):
            self.drop(sequence)

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
