"""The embedding of a model whose first blocks are on a device that does not hold it.

A step looks up a few rows of a matrix that is often the largest: they are turned into numbers here, from
the mapped file, and sent with the step. No device has to know how to look up in this type.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from baremetalrt.native.graph import row_bytes
from baremetalrt.native.tensor_types import to_float
from baremetalrt.weights.gguf import FileMapping, TensorInfo


class HostEmbedding:
    """Rows of the matrix that `info` describes, in a mapped file."""

    def __init__(self, mapping: FileMapping, info: TensorInfo) -> None:
        """Raises `UsageError` where the library cannot turn this type into numbers."""
        width, num_rows, _, _ = info.shape
        self._to_float = to_float(info.type)
        # Holds on to the memory that the addresses are of.
        self._mapping = mapping
        self._address = mapping.address + info.start
        self._row_bytes = row_bytes(info.type, width)
        self._shape = num_rows, width

    def look_up(self, tokens: Sequence[int], out_TD: NDArray[np.float32]) -> None:
        """Writes a row for each token; `out_TD` is contiguous."""
        num_rows, width = self._shape
        target = out_TD.ctypes.data
        for i, token in enumerate(tokens):
            if not 0 <= token < num_rows:
                raise ValueError("a token is not in the vocabulary")
            source = self._address + token * self._row_bytes
            self._to_float(source, target + 4 * width * i, width)
