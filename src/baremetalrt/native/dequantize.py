"""Quantized rows to 32-bit floats, by the library's own functions.

Source: `ggml_get_type_traits` in `ggml.h`; the layout of its answer is checked before it is used.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.native import declarations as d
from baremetalrt.native.library import load_library

# Known block sizes of a type that nobody will change: 32 weights in 34 bytes.
_Q8_0: Final = 8
_Q8_0_BLOCK: Final = (32, 34)
_F32: Final = 0

ToFloat = Callable[[int, int, int], None]


@cache
def to_float(type_: int) -> ToFloat:
    """A function `(from address, to address, elements)` that writes floats; no lock is held meanwhile.

    Addresses are of host memory that holds whole blocks of the type, and of room for the floats.

    Raises:
        UsageError: the library cannot turn this type into floats.
    """
    if type_ == _F32:
        return _copy_floats
    traits = _traits(type_)
    if not traits.to_float:
        name = traits.type_name.decode("ascii", "replace")
        raise UsageError(
            f"tensors of type {name} cannot be turned into floats here", code="gguf.tensor-type"
        )
    function: ToFloat = d.TO_FLOAT(traits.to_float)
    return function


def row_bytes(type_: int, num_elements: int) -> int:
    """The bytes of one row."""
    return int(load_library().c.ggml_row_size(type_, num_elements))


def _copy_floats(source: int, target: int, num_elements: int) -> None:
    ctypes.memmove(target, source, 4 * num_elements)


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
