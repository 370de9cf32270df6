"""Numbers to and from every type that a tensor may have, through ggml's own conversions.

Source: `ggml_type_traits` and `ggml_quantize_chunk` in `ggml.h`.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import UsageError
from baremetalrt.native import declarations as d
from baremetalrt.native.graph import F32, row_bytes
from baremetalrt.native.library import load_library

_F16: Final = 1
_BF16: Final = 30
# Floats, and what `ggml_quantize_chunk` knows; for any other type it ends the process.
_QUANTIZED: Final = frozenset({2, 3, 6, 7, 8, *range(10, 15), *range(16, 24), 29, 34, 35, 39})
_DECODED: Final = frozenset({F32, _F16, _BF16, *_QUANTIZED})


# A type that nobody will change: 32 numbers in 34 bytes.
_Q8_0: Final = 8
_Q8_0_BLOCK: Final = (32, 34)

ToFloat = Callable[[int, int, int], None]


@functools.cache
def _traits(type_: int) -> d.TypeTraits:
    function = load_library().c.ggml_get_type_traits
    known = function(_Q8_0).contents
    if (known.blck_size, known.type_size) != _Q8_0_BLOCK:
        raise UsageError(
            "the ggml library describes its types in another way than is known here",
            code="library.unusable",
        )
    traits: d.TypeTraits = function(type_).contents
    return traits


def can_dequantize(type_: int) -> bool:
    """Whether tensors of this type can be turned into numbers."""
    return type_ in _DECODED and (type_ == F32 or bool(_traits(type_).to_float))


@functools.cache
def to_float(type_: int) -> ToFloat:
    """A function `(from address, to address, numbers)` that writes floats; no lock is held meanwhile.

    Addresses are of host memory: whole blocks of the type, and room for the floats.

    Raises:
        UsageError: the library cannot turn this type into floats.
    """
    if type_ == F32:
        return _copy_floats
    if not can_dequantize(type_):
        raise UsageError(
            f"tensors of type {type_} cannot be turned into floats here", code="gguf.tensor-type"
        )
    function: ToFloat = d.TO_FLOAT(_traits(type_).to_float)
    return function


def _copy_floats(source: int, target: int, num_elements: int) -> None:
    ctypes.memmove(target, source, 4 * num_elements)


def can_quantize(type_: int) -> bool:
    """Whether numbers alone, without statistics of what they are multiplied by, give this type."""
    if type_ not in _DECODED:
        return False
    return not load_library().c.ggml_quantize_requires_imatrix(type_)


def block_width(type_: int) -> int:
    """How many numbers are quantized together: rows are a multiple of it."""
    return int(_traits(type_).blck_size)


def dequantize(data: NDArray[np.uint8], type_: int, width: int) -> NDArray[np.float32]:
    """Whole rows of `width` numbers each, `(rows, width)`; `data` is contiguous."""
    rows = data.nbytes // row_bytes(type_, width)
    if data.nbytes != rows * row_bytes(type_, width):
        raise ValueError("not a whole number of rows")
    if type_ == F32:
        return data.view(np.float32).reshape(rows, width)
    out = np.empty((rows, width), np.float32)
    to_float(type_)(data.ctypes.data, out.ctypes.data, out.size)
    return out


def quantize(values: NDArray[np.float32], type_: int) -> NDArray[np.uint8]:
    """The rows of `values (rows, width)` in a type for which `can_quantize` holds."""
    values = np.ascontiguousarray(values, np.float32)
    rows, width = values.shape
    out = np.empty(rows * row_bytes(type_, width), np.uint8)
    written = load_library().c.ggml_quantize_chunk(
        type_, values.ctypes.data, out.ctypes.data, 0, rows, width, None
    )
    if written != out.nbytes:
        raise RuntimeError("the library quantized to another size")
    return out
