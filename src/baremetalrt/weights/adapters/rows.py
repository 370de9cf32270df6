"""Rows of a matrix in a file, as floats, in pieces: memory is bounded by one of them."""

from collections.abc import Iterator
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.units import MIB
from baremetalrt.native.graph import row_bytes
from baremetalrt.native.tensor_types import dequantize
from baremetalrt.weights.gguf import TensorInfo

_PIECE_BYTES: Final = 8 * MIB


def read_rows(
    file: IO[bytes], info: TensorInfo, num_rows: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The next `num_rows` rows of a tensor, from where `file` stands: number of the first, `(rows, D)`.

    Raises:
        IntegrityError: the file ends before.
    """
    width = info.shape[0]
    row, step = row_bytes(info.type, width), max(1, _PIECE_BYTES // (4 * width))
    for first in range(0, num_rows, step):
        count = min(step, num_rows - first)
        raw = np.frombuffer(file.read(count * row), np.uint8)
        if raw.nbytes != count * row:
            raise IntegrityError(
                f"the model ends within {info.name}", code="gguf.truncated", source=file.name
            )
        yield first, dequantize(raw, info.type, width)
