"""The keys and values of a span of blocks, for all sessions: one tensor of cells each per block.

Kept in half precision, like llama.cpp's default, or in blocks of 32 numbers of eight or four bits. On the
host an empty cache costs address space only.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.cache_types import F16_CACHE, CacheType, CacheTypes
from baremetalrt.blocks.extents import CELL_QUANTUM, CachedSequence, CopyCells, SequenceTable
from baremetalrt.blocks.hyperparameters import Hyperparameters
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
# Numbers that share a scale in the quantized types. Attention reads whole heads.
_BLOCK_WIDTH: Final = 32


def token_bytes(h: Hyperparameters, types: CacheTypes = F16_CACHE) -> int:
    """The size of one token's keys and values in one block.

    Raises:
        UsageError: the heads of this model cannot be kept in such a type.
    """
    return sum(_cell_bytes(h, type_) for type_ in (types.keys, types.values))


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
    ) -> None:
        """Raises like `token_bytes`, and `CapacityError`."""
        self.num_cells = round_up(num_cells, CELL_QUANTUM)
        self.sequences = SequenceTable(self.num_cells)
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

    @property
    def unfilled_bytes(self) -> int:
        """What the host has not given yet, or was given back, of what it was asked for."""
        if not isinstance(self._buffer, PageBuffer):
            return 0
        filled = (
            sum(s.length for s in list(self.sequences.sequences))
            if self._buffer.can_discard
            else self.sequences.allocator.high_water
        )
        return self.token_bytes * (self.num_cells - filled)

    def tensors(self, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one block, `(G * S, cells)`."""
        return self._tensors[block - self._span.start]

    def copy(self, copies: tuple[CopyCells, ...]) -> None:
        """Carries out what the table of sequences asked for. Not while a graph runs."""
        for c in copies:
            with TensorContext(4 * len(self._span)) as context:
                sources = self._views(context, c.source, c.num_cells)
                targets = self._views(context, c.target, c.num_cells)
                for source, target in zip(sources, targets, strict=True):
                    graph.copy(source, target)

    def give_back(self) -> None:
        """Returns the memory of cells that hold nothing any more, after all copies were made."""
        for start, end in self.sequences.take_freed():
            self._discard(start, end)

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

    def read(self, first_cell: int, num_cells: int) -> list[NDArray[np.uint8]]:
        """A copy of these cells in every block, keys before values."""
        if isinstance(self._buffer, PageBuffer):
            return [part.copy() for part in self._host_parts(first_cell, num_cells)]
        with TensorContext(2 * len(self._span)) as context:
            parts = []
            for view in self._views(context, first_cell, num_cells):
                parts.append(np.empty(graph.num_bytes(view), np.uint8))
                backend.read(view, parts[-1])
            return parts

    def write(
        self, first_cell: int, num_cells: int, fill: Callable[[list[NDArray[np.uint8]]], bool]
    ) -> bool:
        """Lets `fill` write these cells, as `read` gives them; they are zeros if it says False."""
        if isinstance(self._buffer, PageBuffer):
            if fill(self._host_parts(first_cell, num_cells)):
                return True
            for address, num_bytes in self._stretches(first_cell, first_cell + num_cells):
                self._buffer.clear(address, num_bytes)
            return False
        with TensorContext(2 * len(self._span)) as context:
            views = list(self._views(context, first_cell, num_cells))
            parts = [np.empty(graph.num_bytes(view), np.uint8) for view in views]
            is_filled = fill(parts)
            for view, part in zip(views, parts, strict=True):
                if is_filled:
                    backend.write(view, part)
                else:
                    graph.zero(view)
            return is_filled

    def _host_parts(self, first_cell: int, num_cells: int) -> list[NDArray[np.uint8]]:
        buffer = self._buffer
        assert isinstance(buffer, PageBuffer)
        stretches = self._stretches(first_cell, first_cell + num_cells)
        return [buffer.view(address, num_bytes) for address, num_bytes in stretches]

    def _discard(self, start: int, end: int) -> None:
        buffer = self._buffer
        if isinstance(buffer, PageBuffer):
            for address, num_bytes in self._stretches(start, end):
                buffer.discard(address, num_bytes)

    def _stretches(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Address and size of these cells in every block, keys before values."""
        for bases in self._addresses:
            for base, size in zip(bases, (self.key_bytes, self.value_bytes), strict=True):
                yield base + start * size, (end - start) * size

    def _views(self, context: TensorContext, first_cell: int, num_cells: int) -> Iterator[Tensor]:
        """These cells in every block, keys before values."""
        for pair in self._tensors:
            for tensor, size in zip(pair, (self.key_bytes, self.value_bytes), strict=True):
                yield context.new_view(tensor, self._width, num_cells, size, first_cell * size)

    def close(self) -> None:
        self._buffer.close()
        self._context.close()
