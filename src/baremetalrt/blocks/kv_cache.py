"""The keys and values of a span of blocks, for all sessions: one tensor of cells each per block.

Kept in half precision, like llama.cpp's default. On the host an empty cache costs address space only.
"""

from typing import Final

from baremetalrt.blocks.extents import CELL_QUANTUM, CachedSequence, CopyCells, SequenceTable
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import round_up
from baremetalrt.native import backend, graph
from baremetalrt.native.backend import BackendDevice
from baremetalrt.native.graph import F16, Tensor, TensorContext

# On the processors measured, decoding at 1,000 to 2,000 tokens of context runs 5 to 40 % faster when the
# rows that attention reads begin in the middle of a cache line: its vectors are half a line long.
_HOST_SHIFT_BYTES: Final = 32


def cell_bytes(h: Hyperparameters) -> int:
    """The size of one token's keys, or of its values, in one block."""
    return graph.row_bytes(F16, h.kv_width)


class KVCache:
    """Storage for `num_cells` tokens of every block in `span`, and the table of who owns which."""

    def __init__(
        self, h: Hyperparameters, span: BlockSpan, device: BackendDevice, num_cells: int
    ) -> None:
        self.num_cells = round_up(num_cells, CELL_QUANTUM)
        self.sequences = SequenceTable(self.num_cells)
        self.cell_bytes = cell_bytes(h)
        self._span = span
        self._width = h.kv_width
        self._is_on_host = device.kind == "cpu"
        self._context = TensorContext(2 * len(span))
        alignment = backend.alignment(device.buffer_type())
        tensor_bytes = round_up(self.cell_bytes * self.num_cells, alignment)
        # Cells that a mask hides are multiplied all the same: they must hold numbers.
        num_bytes = 2 * len(span) * tensor_bytes + alignment + _HOST_SHIFT_BYTES
        self._buffer = backend.zeroed_buffer(device, num_bytes)
        address = round_up(self._buffer.base, alignment)
        if self._is_on_host:
            address += _HOST_SHIFT_BYTES
        self._tensors: list[tuple[Tensor, Tensor]] = []
        for _ in span:
            pair = []
            for _ in ("k", "v"):
                tensor = self._context.new_tensor(F16, h.kv_width, self.num_cells)
                backend.place(tensor, self._buffer, address)
                address += tensor_bytes
                pair.append(tensor)
            self._tensors.append((pair[0], pair[1]))

    @property
    def num_bytes(self) -> int:
        """What all of its cells take."""
        return 2 * len(self._span) * self.cell_bytes * self.num_cells

    @property
    def unfilled_bytes(self) -> int:
        """What the host has not given yet, of what it was asked for."""
        cells = self.num_cells - self.sequences.allocator.high_water
        return 2 * len(self._span) * self.cell_bytes * cells if self._is_on_host else 0

    def tensors(self, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one block, `(G * S, cells)`."""
        return self._tensors[block - self._span.start]

    def copy(self, copies: tuple[CopyCells, ...]) -> None:
        """Carries out what the table of sequences asked for. Not while a graph runs."""
        for c in copies:
            with TensorContext(4 * len(self._span)) as context:
                for pair in self._tensors:
                    for tensor in pair:
                        graph.copy(
                            self._view(context, tensor, c.source, c.num_cells),
                            self._view(context, tensor, c.target, c.num_cells),
                        )

    def scrub(self, sequence: CachedSequence) -> None:
        """Zeros the cells of a sequence whose numbers went bad: masked cells are still multiplied."""
        with TensorContext(2 * len(self._span)) as context:
            for pair in self._tensors:
                for tensor in pair:
                    graph.zero(self._view(context, tensor, sequence.first_cell, sequence.capacity))

    def _view(
        self, context: TensorContext, tensor: Tensor, first_cell: int, num_cells: int
    ) -> Tensor:
        return context.new_view(
            tensor, self._width, num_cells, self.cell_bytes, first_cell * self.cell_bytes
        )

    def close(self) -> None:
        self._buffer.close()
        self._context.close()
