"""Which cells of a KV cache belong to whom, and whose text can be built upon. Pure.

A sequence owns one extent: consecutive cells, cell `i` of it holding position `i` of its text. That
makes a sliding window a plain sub-range, a rollback a smaller length, and a shared prefix a copy.
"""

from array import array
from dataclasses import dataclass, field
from typing import Final

from baremetalrt.blocks.prefix_store import AdapterKey, PrefixKind
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import round_up

# Extents and what attention reads are multiples of this: a graph serves 256 tokens before it is rebuilt,
# and attention splits its sums where llama.cpp does, so that a single session gives its exact logits.
CELL_QUANTUM: Final = 256
# Blocks with a sliding window keep so many tokens beyond it, so that a text may be cut by a few turns,
# and give back what fell out in steps of so many.
_WINDOW_SLACK: Final = 4 * CELL_QUANTUM
_WINDOW_STEP: Final = 2 * CELL_QUANTUM


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

    def next_floor(self, length: int, floor: int) -> int:
        """Where a text of that length that kept all from `floor` on begins from now on."""
        lowest = self.floor(length)
        return lowest if lowest >= floor + _WINDOW_STEP else floor


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
        self._free = merged([*self._free, (start, start + length)])
        self._freed.append((start, start + length))

    def _take(self, i: int, start: int, end: int) -> None:
        stop = self._free[i][1]
        self.high_water = max(self.high_water, end)
        self._free[i : i + 1] = [(end, stop)] if end < stop else []


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
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
