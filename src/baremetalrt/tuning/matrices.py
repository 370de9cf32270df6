"""Weights of the mapped file as floats: whole matrices, ranges of rows, single rows.

Shapes: a matrix is N rows of K elements, as `torch.nn.Linear` has them (N outputs, K inputs).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch

from baremetalrt.native.graph import row_bytes
from baremetalrt.native.tensor_types import ToFloat, to_float
from baremetalrt.weights.gguf import FileMapping, GGUFFile, TensorInfo

_FLOAT_BYTES: Final = 4
# Below this, handing work to another thread takes longer than the work.
_MIN_ELEMENTS_PER_THREAD: Final = 1 << 16


class Workbench:
    """What all matrices of a model share: the mapped file, threads, and memory that is used again.

    `kept_bytes` of memory hold the matrices of one block between the second forward pass of gradient
    checkpointing and the backward pass right after it; zero means that they are made twice.
    """

    def __init__(self, file: GGUFFile, *, num_threads: int) -> None:
        self.mappings: Sequence[FileMapping] = file.map()
        self.num_threads = num_threads
        self._pool = ThreadPoolExecutor(max(1, num_threads - 1), thread_name_prefix="dequantize")
        self._scratch = torch.empty(0)
        self._kept = torch.empty(0)
        self._kept_used = 0
        self._keeps = False
        # whether a block is being computed for the second time, on the way back
        self.is_second_pass = False
        self._places: dict[int, torch.Tensor] = {}

    def scratch(self, num_elements: int) -> torch.Tensor:
        """Memory whose content lasts until the next call."""
        if self._scratch.numel() < num_elements:
            self._scratch = torch.empty(num_elements)
        return self._scratch[:num_elements]

    def reserve(self, num_elements: int) -> None:
        """Makes room to keep the matrices of one block."""
        self._kept = torch.empty(num_elements)

    @property
    def memory_bytes(self) -> int:
        return _FLOAT_BYTES * (self._scratch.numel() + self._kept.numel())

    def start_keeping(self) -> None:
        """From here on, matrices that are made stay until `start_keeping` is called again."""
        self._places.clear()
        self._kept_used = 0
        self._keeps = self._kept.numel() > 0
        self.is_second_pass = True

    def stop_keeping(self) -> None:
        """What was kept can still be used; nothing is added."""
        self._keeps = self.is_second_pass = False

    def forget(self) -> None:
        """Nothing that was kept is valid any longer."""
        self._places.clear()
        self._keeps = False

    def floats(self, matrix: "Matrix") -> torch.Tensor:
        """The whole matrix `(N, K)`, in memory that lasts until the next call."""
        kept = self._places.get(id(matrix))
        if kept is not None:
            return kept
        size = matrix.num_rows * matrix.num_columns
        if self._keeps and self._kept_used + size <= self._kept.numel():
            out = self._kept[self._kept_used : self._kept_used + size]
            self._kept_used += size
            self._places[id(matrix)] = out.view(matrix.num_rows, matrix.num_columns)
        else:
            out = self.scratch(size)
        self.read_rows(matrix, 0, matrix.num_rows, out)
        return out.view(matrix.num_rows, matrix.num_columns)

    def read_rows(self, matrix: "Matrix", start: int, end: int, out: torch.Tensor) -> None:
        """Rows `[start, end)` as floats into `out`, several threads at once."""
        convert, source, target = matrix.convert, matrix.address, out.data_ptr()
        row, width = matrix.row_bytes, matrix.num_columns
        rows = end - start
        parts = max(1, min(self.num_threads, rows * width // _MIN_ELEMENTS_PER_THREAD))
        bounds = [rows * i // parts for i in range(parts + 1)]

        def part(i: int) -> None:
            a, b = bounds[i], bounds[i + 1]
            to = target + a * width * _FLOAT_BYTES
            convert(source + (start + a) * row, to, (b - a) * width)

        others = [self._pool.submit(part, i) for i in range(1, parts)]
        part(0)
        for other in others:
            other.result()

    def close(self) -> None:
        self._pool.shutdown()


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix of the file, where it lies. `interleaved_heads` of it need their rows reordered.

    Files of the Llama family hold the rows of queries and keys in the order of interleaved rotation: the
    two halves of each head, element by element. `transformers` wants one half after the other.
    """

    bench: Workbench
    info: TensorInfo
    address: int
    num_rows: int
    num_columns: int
    row_bytes: int
    interleaved_heads: int = 0

    @classmethod
    def of(
        cls, bench: Workbench, info: TensorInfo, *, interleaved_heads: int = 0, index: int = 0
    ) -> "Matrix":
        """The matrix of a tensor; `index` picks one from a tensor that holds several."""
        width, rows = info.shape[0], info.shape[1]
        size = row_bytes(info.type, width)
        address = bench.mappings[info.file].address + info.start + index * rows * size
        return cls(bench, info, address, rows, width, size, interleaved_heads)

    @property
    def convert(self) -> ToFloat:
        return to_float(self.info.type)

    def floats(self) -> torch.Tensor:
        """`(N, K)` in the order of the file; valid until the workbench is asked again."""
        return self.bench.floats(self)

    def copy(self) -> torch.Tensor:
        """`(N, K)` in the order of `transformers`, in memory of its own."""
        out = torch.empty(self.num_rows, self.num_columns)
        self.bench.read_rows(self, 0, self.num_rows, out)
        return self.from_file_order(out.t()).t().contiguous()

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows that `ids` name, `(*ids, K)`; each different one is read once."""
        unique, where = torch.unique(ids, return_inverse=True)
        rows = torch.empty(len(unique), self.num_columns)
        convert, target = self.convert, rows.data_ptr()
        # Row by row: texts use few of the rows, and those lie apart.
        for i, row in enumerate(unique.tolist()):
            convert(
                self.address + row * self.row_bytes,
                target + i * self.num_columns * _FLOAT_BYTES,
                self.num_columns,
            )
        return rows.to(ids.device)[where]

    def from_file_order(self, y: torch.Tensor) -> torch.Tensor:
        """Columns of `y (…, N)` from the order of the file to that of `transformers`."""
        if not self.interleaved_heads:
            return y
        heads = y.reshape(*y.shape[:-1], self.interleaved_heads, -1, 2)
        return heads.transpose(-1, -2).reshape(y.shape)

    def to_file_order(self, y: torch.Tensor) -> torch.Tensor:
        """The reverse."""
        if not self.interleaved_heads:
            return y
        heads = y.reshape(*y.shape[:-1], self.interleaved_heads, 2, -1)
        return heads.transpose(-1, -2).reshape(y.shape)


def vector(bench: Workbench, info: TensorInfo) -> torch.Tensor:
    """A one-dimensional tensor (or all of a small one) as floats, in memory of its own."""
    out = torch.empty(info.num_elements)
    address = bench.mappings[info.file].address + info.start
    to_float(info.type)(address, out.data_ptr(), info.num_elements)
    return out
