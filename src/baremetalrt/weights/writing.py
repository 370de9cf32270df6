"""The only place that writes GGUF: metadata, records of tensors, tensors.

Source: the GGUF specification, version 3; little endian.
"""

import struct
from collections.abc import Mapping
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.units import round_up
from baremetalrt.native.graph import F32

DEFAULT_ALIGNMENT: Final = 32
_MAGIC: Final = b"GGUF"
_VERSION: Final = 3
_START: Final = struct.Struct("<4sIQQ")
_UINT32, _FLOAT32, _STRING = 4, 6, 8

Value = str | float | int


def write_gguf(
    out: IO[bytes], values: Mapping[str, Value], tensors: Mapping[str, NDArray[np.float32]]
) -> None:
    """A whole file: `values`, then `tensors` in single precision. The same ones give the same bytes.

    Shapes are numpy's, slowest dimension first.
    """
    out.write(_header(values, tensors))
    for array in tensors.values():
        raw = np.ascontiguousarray(array, np.float32).tobytes()
        out.write(_padded(raw))


def _header(values: Mapping[str, Value], tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    out = bytearray(_START.pack(_MAGIC, _VERSION, len(tensors), len(values)))
    for key, value in values.items():
        out += _value(key, value)
    offset = 0
    for name, array in tensors.items():
        out += _string(name) + struct.pack("<I", array.ndim)
        out += struct.pack(f"<{array.ndim}Q", *array.shape[::-1])
        out += struct.pack("<IQ", F32, offset)
        offset += round_up(4 * array.size, DEFAULT_ALIGNMENT)
    return _padded(bytes(out))


def _value(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        return _string(key) + struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, float):
        return _string(key) + struct.pack("<If", _FLOAT32, value)
    return _string(key) + struct.pack("<II", _UINT32, value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(raw: bytes) -> bytes:
    return raw.ljust(round_up(len(raw), DEFAULT_ALIGNMENT), b"\0")
