"""The tensors of a PEFT folder: of one safetensors file, or of several that an index names.

The `safetensors` package checks a file; what it gives numpy has no BF16 and is the whole tensor at once,
so the numbers are read here, a piece at a time.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import open_regular, read_regular
from baremetalrt.core.units import MIB
from baremetalrt.weights.adapters.adapter import bad

WEIGHTS_NAME: Final = "adapter_model.safetensors"
INDEX_NAME: Final = "adapter_model.safetensors.index.json"
_MAX_HEADER_BYTES: Final = 16 * MIB
_MAX_FILES: Final = 256
_PIECE_BYTES: Final = 8 * MIB
_HINT: Final = f"an adapter is a folder with {WEIGHTS_NAME} and adapter_config.json"
_WIDTHS: Final = {"F32": 4, "F16": 2, "BF16": 2}


class _Entry(msgspec.Struct, frozen=True):
    """A tensor in the header of a file; offsets count from its end."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies; `shape` is numpy's, slowest dimension first."""

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """The memory that it takes in single precision."""
        return 4 * math.prod(self.shape)

    def read(self) -> NDArray[np.float32]:
        """All of it, in single precision."""
        pieces = list(self.pieces(math.prod(self.shape)))
        return (pieces[0] if pieces else np.zeros(0, np.float32)).reshape(self.shape)

    def rows(self) -> Iterator[NDArray[np.float32]]:
        """A matrix, some of its rows at a time."""
        width = math.prod(self.shape[1:])
        for piece in self.pieces(max(1, _PIECE_BYTES // (4 * width)) * width):
            yield piece.reshape(-1, width)

    def pieces(self, num_each: int) -> Iterator[NDArray[np.float32]]:
        """Its numbers, so many at a time; raises `IntegrityError` if the file ends before."""
        width, left = _WIDTHS[self.dtype], math.prod(self.shape)
        with open_regular(self.path) as file:
            file.seek(self.start)
            while left:
                count = min(num_each, left)
                raw = file.read(count * width)
                if len(raw) != count * width:
                    raise bad(str(self.path), "ends before its numbers do")
                yield _floats(raw, self.dtype)
                left -= count


def _floats(raw: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(raw, "<f4").astype(np.float32, copy=False)
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class TensorFolder:
    """`tensors` by name; `metadata` is what their writer says of them."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def has_weights(folder: Path) -> bool:
    """Whether there are weights that can be read without running a program."""
    return any((folder / name).is_file() for name in (WEIGHTS_NAME, INDEX_NAME))


def open_folder(folder: Path) -> TensorFolder:
    """What is in the files of a folder; no number is read yet.

    Raises:
        UsageError: a file cannot be read.
        IntegrityError: one is damaged, or none of this kind, or the index and they do not agree.
    """
    index = folder / INDEX_NAME
    try:
        if (folder / WEIGHTS_NAME).exists() or not index.exists():
            return _open_file(folder / WEIGHTS_NAME)
        named = _read_index(index)
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for name in sorted(set(named.values())):
            part = _open_file(folder / name)
            tensors |= {n: t for n, t in part.tensors.items() if named.get(n) == name}
            metadata |= part.metadata
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}",
            code="adapter.unreadable",
            hint=_HINT,
        ) from error
    if missing := named.keys() - tensors.keys():
        raise bad(str(folder), f"lacks {min(missing)[:200]}, which its index names")
    return TensorFolder(tensors, metadata)


def _read_index(path: Path) -> dict[str, str]:
    try:
        named = msgspec.json.decode(read_regular(path, _MAX_HEADER_BYTES), type=_Index).weight_map
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad(str(path), f"has an index that cannot be read: {error}") from error
    files = set(named.values())
    if not 1 <= len(files) <= _MAX_FILES:
        raise bad(str(path), f"names {len(files)} files in its index, expected 1 to {_MAX_FILES}")
    for name in files:
        # Nothing outside of the folder, and nothing that was meant to be something else.
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise bad(str(path), f"names {name[:200]!r} in its index, which is no file of its own")
    return named


def _open_file(path: Path) -> TensorFolder:
    source = str(path)
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise _damaged(source, f"its header claims {length} bytes")
        raw = file.read(length)
    try:
        with safe_open(path, framework="np"):
            pass  # it has compared the header with itself and with the file
        entries = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        metadata: Any = msgspec.json.decode(entries.pop("__metadata__", msgspec.Raw(b"{}")))
        found = {n: msgspec.json.decode(r, type=_Entry) for n, r in entries.items()}
    except (SafetensorError, msgspec.DecodeError, RecursionError) as error:
        raise _damaged(source, str(error)) from error
    for name, entry in found.items():
        if entry.dtype not in _WIDTHS:
            raise bad(
                source, f"has {name[:200]} in the type {entry.dtype}, expected F32, F16 or BF16"
            )
    tensors = {
        name: StoredTensor(
            path=path,
            start=8 + length + entry.data_offsets[0],
            shape=tuple(entry.shape),
            dtype=entry.dtype,
        )
        for name, entry in found.items()
    }
    return TensorFolder(tensors, metadata if isinstance(metadata, dict) else {})


def _damaged(source: str, what: str) -> IntegrityError:
    return bad(source, f"cannot be read: {what}", hint="the file is damaged or incomplete")
