"""The C reader of GGUF headers, as a Python object.

Source: `gguf.h`; the format is described in ggml's `docs/gguf.md`.
"""

import ctypes
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from baremetalrt.core.units import MIB
from baremetalrt.native import declarations as d
from baremetalrt.native import logs
from baremetalrt.native.handle import Handle
from baremetalrt.native.library import load_library

MetadataValue = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]

# Vocabularies of half a million tokens with merges take 15 MB. The bound keeps a hostile header
# (arrays of millions of empty strings) from costing more memory than a small model.
HEADER_LIMIT_BYTES: Final = 32 * MIB
# The C reader compares every key with every other, and every tensor name likewise: with the million
# that fit into a header it would take hours. The largest models have a few thousand tensors per file.
_MAX_ENTRIES: Final = 1 << 14
# magic, version, number of tensors, number of values
_START: Final = struct.Struct("<4sIQQ")
# The C reader names others in its message.
_VERSIONS: Final = (2, 3)
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final[dict[int, Any]] = {
    0: ctypes.c_uint8,
    1: ctypes.c_int8,
    2: ctypes.c_uint16,
    3: ctypes.c_int16,
    4: ctypes.c_uint32,
    5: ctypes.c_int32,
    6: ctypes.c_float,
    7: ctypes.c_bool,
    10: ctypes.c_uint64,
    11: ctypes.c_int64,
    12: ctypes.c_double,
}


def type_name(type_: int) -> str:
    """The name of a tensor type in lower case: `q4_k`."""
    return str(load_library().c.ggml_type_name(type_).decode()).lower()


class HeaderError(Exception):
    """The C reader refused the bytes; the message is its own reason."""


@dataclass(frozen=True)
class TensorRecord:
    """One tensor as the header describes it; `offset` counts from the start of the data section."""

    name: str
    type: int
    shape: tuple[int, int, int, int]
    offset: int
    num_bytes: int


class GGUFHeader(Handle):
    """A parsed GGUF header: metadata and tensor records, no tensor data."""

    def __init__(self, data: bytearray | mmap.mmap) -> None:
        """Parses the header that `data` starts with; the bytes are not needed afterwards.

        `data` must be writable memory (a copy-on-write mapping is), which ctypes asks for.

        Raises:
            HeaderError: not a GGUF header, or one that does not end within the buffer.
        """
        self._c = load_library().c
        if len(data) >= _START.size:
            _, version, num_tensors, num_values = _START.unpack_from(data)
            if version in _VERSIONS and max(num_tensors, num_values) > _MAX_ENTRIES:
                raise HeaderError(f"it claims {num_tensors} tensors and {num_values} values")
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        with logs.captured_errors() as lines:
            pointer = self._c.gguf_init_from_buffer(
                address, len(data), d.GGUFInitParams(no_alloc=True, ctx=None)
            )
        if not pointer:
            raise HeaderError(logs.reason(lines, "not a GGUF file"))
        super().__init__(pointer, self._c.gguf_free, what="a GGUF header")
        self._index = {
            self._c.gguf_get_key(pointer, i).decode("utf-8", "replace"): i
            for i in range(self._c.gguf_get_n_kv(pointer))
        }

    @property
    def version(self) -> int:
        return int(self._c.gguf_get_version(self.pointer))

    @property
    def data_offset(self) -> int:
        """Where the data section starts, in bytes from the start of the file."""
        return int(self._c.gguf_get_data_offset(self.pointer))

    def keys(self) -> tuple[str, ...]:
        return tuple(self._index)

    def array_length(self, key: str) -> int | None:
        """How many elements an array has; None when `key` is absent or not an array."""
        i = self._index.get(key)
        if i is None or self._c.gguf_get_kv_type(self.pointer, i) != _ARRAY:
            return None
        return int(self._c.gguf_get_arr_n(self.pointer, i))

    def get(self, key: str) -> MetadataValue | None:
        """The value under `key`, or None. Strings that are not UTF-8 get replacement characters."""
        i = self._index.get(key)
        if i is None:
            return None
        kind = self._c.gguf_get_kv_type(self.pointer, i)
        if kind == _STRING:
            return _text(self._c.gguf_get_val_str(self.pointer, i))
        if kind == _ARRAY:
            return self._array(i)
        scalar = _SCALARS[kind]
        value: bool | int | float = scalar.from_address(
            self._c.gguf_get_val_data(self.pointer, i)
        ).value
        return value

    def _array(self, i: int) -> MetadataValue:
        kind = self._c.gguf_get_arr_type(self.pointer, i)
        length = self._c.gguf_get_arr_n(self.pointer, i)
        if kind == _STRING:
            return [_text(self._c.gguf_get_arr_str(self.pointer, i, j)) for j in range(length)]
        if length == 0:
            return []
        array = (_SCALARS[kind] * length).from_address(self._c.gguf_get_arr_data(self.pointer, i))
        return list(array)

    def tensors(self) -> Iterator[TensorRecord]:
        """The tensors in file order."""
        c, pointer = self._c, self.pointer
        for i in range(c.gguf_get_n_tensors(pointer)):
            ne = c.gguf_get_tensor_ne(pointer, i)
            yield TensorRecord(
                name=c.gguf_get_tensor_name(pointer, i).decode("utf-8", "replace"),
                type=c.gguf_get_tensor_type(pointer, i),
                shape=(ne[0], ne[1], ne[2], ne[3]),
                offset=c.gguf_get_tensor_offset(pointer, i),
                num_bytes=c.gguf_get_tensor_size(pointer, i),
            )

    # a header that is to be written: one that was parsed for this, and changed

    @property
    def meta_bytes(self) -> int:
        """The size of the header as it would be written, padding included."""
        return int(self._c.gguf_get_meta_size(self.pointer))

    def set_text(self, key: str, text: str) -> None:
        """Adds a value."""
        self._c.gguf_set_val_str(self.pointer, key.encode(), text.encode())

    def set_type(self, tensor: str, type_: int) -> None:
        """Gives a tensor another type, of whose blocks its rows are whole ones; others move with it."""
        self._c.gguf_set_tensor_type(self.pointer, tensor.encode(), type_)

    def to_bytes(self) -> bytes:
        """The header as it is written."""
        out = bytearray(self.meta_bytes)
        self._c.gguf_get_meta_data(self.pointer, (ctypes.c_char * len(out)).from_buffer(out))
        return bytes(out)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
