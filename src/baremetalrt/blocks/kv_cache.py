"""The keys and values of a span of blocks, for all sessions: one tensor of cells each per block.

Kept in half precision, like llama.cpp's default, or in blocks of 32 numbers of eight or four bits. On the
host an empty cache costs address space only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.cache_types import F16_CACHE, CacheType, CacheTypes
from baremetalrt.blocks.extents import CELL_QUANTUM, CachedSequence, CopyCells, SlidingWindows
from baremetalrt.blocks.hyperparameters import MAX_CONTEXT, Hyperparameters
from baremetalrt.blocks.sequence_table import SequenceTable
from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import round_up
from baremetalrt.native import backend, graph
from baremetalrt.native.backend import BackendDevice, PageBuffer
from baremetalrt.native.graph import F16, Q4_0, Q8_0, Tensor, TensorContext

# On the processors measured, decoding at 1,000 to 2,000 tokens of context runs 5 to 40 % faster when the
# rows that attention reads begin in the middle of a cache line: its vectors are half a line long.
_HOST_SHIFT_BYTES: Final = 32
_TYPES: Final[dict[CacheType, int]] = {"f16": F16, "q8_0": Q8_0, "q4_0": Q4_0}
# Blocks with a sliding window, and those without.
_ALL: Final = (False, True)
# Numbers that share a scale in the quantized types. Attention reads whole heads.
_BLOCK_WIDTH: Final = 32


def token_bytes(h: Hyperparameters, types: CacheTypes = F16_CACHE) -> int:
    """The size of one token's keys and values in one block.

    Raises:
        UsageError: the heads of this model cannot be kept in such a type.
    """
    return sum(_cell_bytes(h, type_) for type_ in (types.keys, types.values))


@dataclass(frozen=True, kw_only=True)
class CacheCost:
    """What the cells of a span take: a token in blocks that keep all, and in those with a window."""

    token_bytes: int
    windowed_bytes: int = 0
    windows: SlidingWindows | None = None

    @classmethod
    def of(
        cls, h: Hyperparameters, span: BlockSpan, types: CacheTypes, windows: SlidingWindows | None
    ) -> Self:
        """Raises like `token_bytes`."""
        each = token_bytes(h, types)
        count = sum(map(h.is_windowed, span)) if windows is not None else 0
        return cls(
            token_bytes=each * (len(span) - count), windowed_bytes=each * count, windows=windows
        )

    def num_bytes(self, num_cells: int) -> int:
        """What so many cells take when they are full."""
        windowed = min(num_cells, self.windows.num_cells) if self.windows is not None else 0
        return self.token_bytes * num_cells + self.windowed_bytes * windowed

    def max_cells(self, room_bytes: int) -> int:
        """How many cells there is room for."""
        flat = self.windows.num_cells if self.windows is not None else 0
        if flat and self.num_bytes(flat) < room_bytes:
            left = room_bytes - self.num_bytes(flat)
            return flat + (left // self.token_bytes if self.token_bytes else MAX_CONTEXT)
        return room_bytes // (self.token_bytes + self.windowed_bytes)


def _cell_bytes(h: Hyperparameters, type_: CacheType) -> int:
    if type_ != "f16" and h.head_size % _BLOCK_WIDTH:
        raise UsageError(
            f"heads of {h.head_size} numbers cannot be kept as {type_}, which takes them by "
            f"{_BLOCK_WIDTH}",
            code="cache.type",
            parameter="cache_type",
            hint="keep the keys and values of this model in f16",
        )
    return graph.row_bytes(_TYPES[type_], h.kv_width)


class KVCache:
    """Storage for `num_cells` tokens of every block in `span`, and the table of who owns which."""

    def __init__(
        self,
        h: Hyperparameters,
        span: BlockSpan,
        device: BackendDevice,
        num_cells: int,
        types: CacheTypes = F16_CACHE,
        windows: SlidingWindows | None = None,
    ) -> None:
        """Without `windows`, blocks that have one keep everything. Raises like `token_bytes`, and
        `CapacityError`."""
        self.num_cells = round_up(num_cells, CELL_QUANTUM)
        self._windowed = [windows is not None and h.is_windowed(block) for block in span]
        self._windows = windows if any(self._windowed) else None
        self.sequences = SequenceTable(self.num_cells, self._windows)
        self.types = types
        self.key_bytes = _cell_bytes(h, types.keys)
        self.value_bytes = _cell_bytes(h, types.values)
        self._span = span
        self._width = h.kv_width
        self._context = TensorContext(2 * len(span))
        alignment = backend.alignment(device.buffer_type())
        sides = [
            (_TYPES[type_], round_up(cell_bytes * self.num_cells, alignment))
            for type_, cell_bytes in (
                (types.keys, self.key_bytes),
                (types.values, self.value_bytes),
            )
        ]
        # Cells that a mask hides are multiplied all the same: they must hold numbers.
        num_bytes = len(span) * sum(size for _, size in sides) + alignment + _HOST_SHIFT_BYTES
        self._buffer = backend.zeroed_buffer(device, num_bytes)
        address = round_up(self._buffer.base, alignment)
        if isinstance(self._buffer, PageBuffer):
            address += _HOST_SHIFT_BYTES
        self._tensors: list[tuple[Tensor, Tensor]] = []
        # where they begin
        self._addresses: list[tuple[int, int]] = []
        for _ in span:
            pair, addresses = [], []
            for type_, size in sides:
                tensor = self._context.new_tensor(type_, h.kv_width, self.num_cells)
                backend.place(tensor, self._buffer, address)
                pair.append(tensor)
                addresses.append(address)
                address += size
            self._tensors.append((pair[0], pair[1]))
            self._addresses.append((addresses[0], addresses[1]))

    @property
    def unpacks(self) -> bool:
        """Whether steps of many rows are faster on numbers of full width: the processor's are."""
        return self.types != F16_CACHE and isinstance(self._buffer, PageBuffer)

    @property
    def token_bytes(self) -> int:
        """What one token takes, in all blocks."""
        return len(self._span) * (self.key_bytes + self.value_bytes)

    def chunk_bytes(self, num_cells: int, *, windowed: bool = True) -> int:
        """What so many tokens take; in blocks without a sliding window alone, if not `windowed`."""
        blocks = len(self._span) if windowed else self._windowed.count(False)
        return blocks * (self.key_bytes + self.value_bytes) * num_cells

    @property
    def num_bytes(self) -> int:
        """What all of its cells take when they are full."""
        num_bytes = self.chunk_bytes(self.num_cells, windowed=False)
        if self._windows is not None:
            cells = min(self.num_cells, self._windows.num_cells)
            num_bytes += self.chunk_bytes(cells) - self.chunk_bytes(cells, windowed=False)
        return num_bytes

    @property
    def unfilled_bytes(self) -> int:
        """What the host has not given yet, or was given back, of what it was asked for."""
        if not isinstance(self._buffer, PageBuffer):
            return 0
        if not self._buffer.can_discard:
            return self.token_bytes * (self.num_cells - self.sequences.allocator.high_water)
        texts = list(self.sequences.sequences)
        num_bytes = self.chunk_bytes(self.num_cells - sum(s.length for s in texts), windowed=False)
        if self._windows is not None:
            held = sum(s.num_windowed for s in texts)
            cells = max(0, min(self.num_cells, self._windows.num_cells) - held)
            num_bytes += self.chunk_bytes(cells) - self.chunk_bytes(cells, windowed=False)
        return num_bytes

    def tensors(self, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one block, `(G * S, cells)`."""
        return self._tensors[block - self._span.start]

    def copy(self, copies: tuple[CopyCells, ...]) -> None:
        """Carries out what the table of sequences asked for. Not while a graph runs."""
        for c in copies:
            self._copy(c.source, c.target, c.num_cells, (False,))
            self._copy(c.source + c.floor, c.target + c.floor, c.num_cells - c.floor, (True,))

    def _copy(self, source: int, target: int, num_cells: int, windowed: tuple[bool, ...]) -> None:
        if not num_cells:
            return
        with TensorContext(4 * len(self._span)) as context:
            sources = self._views(context, source, num_cells, windowed)
            targets = self._views(context, target, num_cells, windowed)
            for one, other in zip(sources, targets, strict=True):
                graph.copy(one, other)

    def give_back(self) -> None:
        """Returns the memory of cells that hold nothing any more, after all copies were made."""
        freed, buffer = self.sequences.take_freed(), self._buffer
        if isinstance(buffer, PageBuffer):
            for ranges, windowed in ((freed.everywhere, False), (freed.windowed, True)):
                for start, end in ranges:
                    for address, num_bytes in self._stretches(start, end, (windowed,)):
                        buffer.discard(address, num_bytes)

    def slide(self, sequence: CachedSequence) -> None:
        """Gives back what has fallen out of the windows of a text that has grown, if it is worth it."""
        if self.sequences.slide(sequence):
            self.give_back()

    def truncate(self, sequence: CachedSequence, length: int) -> None:
        """Forgets all but the first `length` tokens of a text."""
        self.sequences.truncate(sequence, length)
        self.give_back()

    def scrub(self, sequence: CachedSequence) -> None:
        """Zeros the cells of a sequence whose numbers went bad: masked cells are still multiplied."""
        buffer, first, count = self._buffer, sequence.first_cell, sequence.capacity
        if isinstance(buffer, PageBuffer):
            for address, num_bytes in self._stretches(first, first + count):
                buffer.clear(address, num_bytes)
            return
        with TensorContext(2 * len(self._span)) as context:
            for view in self._views(context, first, count):
                graph.zero(view)

    def read(
        self, first_cell: int, num_cells: int, *, windowed: bool = True
    ) -> list[NDArray[np.uint8]]:
        """A copy of these cells in every block, keys before values; see `chunk_bytes`."""
        which = _ALL if windowed else (False,)
        if isinstance(self._buffer, PageBuffer):
            return [part.copy() for part in self._host_parts(first_cell, num_cells, which)]
        with TensorContext(2 * len(self._span)) as context:
            parts = []
            for view in self._views(context, first_cell, num_cells, which):
                parts.append(np.empty(graph.num_bytes(view), np.uint8))
                backend.read(view, parts[-1])
            return parts

    def write(
        self,
        first_cell: int,
        num_cells: int,
        fill: Callable[[list[NDArray[np.uint8]]], bool],
        *,
        windowed: bool = True,
    ) -> bool:
        """Lets `fill` write these cells, as `read` gives them; they are zeros if it says False."""
        which = _ALL if windowed else (False,)
        if isinstance(self._buffer, PageBuffer):
            if fill(self._host_parts(first_cell, num_cells, which)):
                return True
            for address, num_bytes in self._stretches(first_cell, first_cell + num_cells, which):
                self._buffer.clear(address, num_bytes)
            return False
        with TensorContext(2 * len(self._span)) as context:
            views = list(self._views(context, first_cell, num_cells, which))
            parts = [np.empty(graph.num_bytes(view), np.uint8) for view in views]
            is_filled = fill(parts)
            for view, part in zip(views, parts, strict=True):
                if is_filled:
                    backend.write(view, part)
                else:
                    graph.zero(view)
            return is_filled

    def _host_parts(
        self, first_cell: int, num_cells: int, windowed: tuple[bool, ...]
    ) -> list[NDArray[np.uint8]]:
        buffer = self._buffer
        assert isinstance(buffer, PageBuffer)
        stretches = self._stretches(first_cell, first_cell + num_cells, windowed)
        return [buffer.view(address, num_bytes) for address, num_bytes in stretches]

    def _stretches(
        self, start: int, end: int, windowed: tuple[bool, ...] = _ALL
    ) -> Iterator[tuple[int, int]]:
        """Address and size of these cells in every block that is `windowed` or not, keys first."""
        for bases, is_windowed in zip(self._addresses, self._windowed, strict=True):
            if is_windowed in windowed:
                for base, size in zip(bases, (self.key_bytes, self.value_bytes), strict=True):
                    yield base + start * size, (end - start) * size

    def _views(
        self,
        context: TensorContext,
        first_cell: int,
        num_cells: int,
        windowed: tuple[bool, ...] = _ALL,
    ) -> Iterator[Tensor]:
        """These cells in every block that is `windowed` or not, keys before values."""
        for pair, is_windowed in zip(self._tensors, self._windowed, strict=True):
            if is_windowed in windowed:
                for tensor, size in zip(pair, (self.key_bytes, self.value_bytes), strict=True):
                    yield context.new_view(tensor, self._width, num_cells, size, first_cell * size)

    def close(self) -> None:
        """Whoever still means to read a text finds it gone."""
        self.sequences.forget_all()
        self._buffer.close()
        self._context.close()
