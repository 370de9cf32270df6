"""A GGUF file, possibly split, possibly still arriving.

Only the header has to be there to open one. Everything that is computed with is checked against the
length of the file first; whether the bytes are the right ones is not for this file to say.
"""

import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import open_regular
from baremetalrt.core.spans import BlockSpan, ByteRange, merge
from baremetalrt.core.units import MIB, format_bytes
from baremetalrt.native.gguf import (
    HEADER_LIMIT_BYTES as HEADER_LIMIT_BYTES,
)
from baremetalrt.native.gguf import (
    GGUFHeader,
    HeaderError,
    MetadataValue,
    type_name,
)

# Source: Linux's `mman-common.h`; Python's `mmap` does not name it yet.
_MADV_POPULATE_READ: Final = 22
# Other threads get their turn between two steps.
_POPULATE_STEP_BYTES: Final = 32 * MIB
_MAX_BLOCKS: Final = 4096
# What belongs to no block. Without the second one, the first is both.
EMBEDDING: Final = "token_embd.weight"
HEAD: Final = "output.weight"
_MAX_PARTS: Final = 4096
_MAX_SHORT_ARRAY: Final = 4096
_MAGIC: Final = b"GGUF"
_BLOCK_NAME: Final = re.compile(r"blk\.(\d{1,9})\.(.+)")
_PART_NAME: Final = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and what it looks like. Shapes follow ggml: fastest dimension first."""

    name: str
    type: int
    shape: tuple[int, int, int, int]
    file: int
    start: int
    num_bytes: int

    @property
    def byte_range(self) -> ByteRange:
        return ByteRange(self.file, self.start, self.start + self.num_bytes)

    @property
    def type_name(self) -> str:
        return type_name(self.type)

    @property
    def num_elements(self) -> int:
        a, b, c, d = self.shape
        return a * b * c * d

    def describe_shape(self) -> str:
        return describe_shape(self.shape)


def describe_shape(shape: Iterable[int]) -> str:
    """`576 x 1536`, without the trailing ones."""
    dims = list(shape)
    while len(dims) > 1 and dims[-1] == 1:
        dims.pop()
    return " x ".join(str(n) for n in dims)


@dataclass(frozen=True)
class Block:
    """The tensors of one transformer block, by their names without the `blk.N.` prefix."""

    index: int
    tensors: dict[str, TensorInfo]

    @property
    def num_bytes(self) -> int:
        return sum(t.num_bytes for t in self.tensors.values())

    @property
    def byte_ranges(self) -> tuple[ByteRange, ...]:
        """What has to be there before the block can be computed."""
        return merge(t.byte_range for t in self.tensors.values())


class _ShortHeader:
    """What a header says, without its long arrays: of those it knows the lengths."""

    def __init__(self, header: GGUFHeader) -> None:
        self.version = header.version
        keys = header.keys()
        self._lengths = {key: header.array_length(key) for key in keys}
        self._values = {
            key: header.get(key)
            for key, length in self._lengths.items()
            if length is None or length <= _MAX_SHORT_ARRAY
        }

    def keys(self) -> tuple[str, ...]:
        return tuple(self._lengths)

    def array_length(self, key: str) -> int | None:
        return self._lengths.get(key)

    def get(self, key: str) -> MetadataValue | None:
        """The value under `key`; raises `KeyError` if it is a long array."""
        return self._values[key] if key in self._lengths else None


class GGUFFile:
    """The header of a model and the place of its tensors. Open one with `GGUFFile.open`."""

    def __init__(self, paths: tuple[Path, ...], headers: list[GGUFHeader]) -> None:
        self.paths = paths
        self._header: GGUFHeader | _ShortHeader = headers[0]
        self.data_offsets = tuple(header.data_offset for header in headers)
        self.tensors: dict[str, TensorInfo] = {}
        for file, header in enumerate(headers):
            for t in header.tensors():
                if t.name in self.tensors:
                    raise IntegrityError(
                        f"{paths[file].name}: tensor {t.name!r} is in two parts",
                        code="gguf.duplicate-tensor",
                        source=str(paths[file]),
                    )
                start = header.data_offset + t.offset
                self.tensors[t.name] = TensorInfo(t.name, t.type, t.shape, file, start, t.num_bytes)

    @classmethod
    def open(cls, path: Path, *, limit_bytes: int = HEADER_LIMIT_BYTES) -> "GGUFFile":
        """Reads the header of a GGUF file, and those of its other parts when it is split.

        Nothing after the first `limit_bytes` of each part is looked at: of a file that still arrives,
        the rest may be zeros.

        Raises:
            UsageError: there is no such file.
            IntegrityError: it is not GGUF, or its header is damaged, incomplete or absurd.
        """
        header = _read_header(path, limit_bytes)
        parts = header.get("split.count")
        if not isinstance(parts, int) or parts <= 1:
            return cls((path,), [header])
        if parts > _MAX_PARTS:
            raise _damaged(path, f"claims {parts} parts")
        if header.get("split.no") != 0:
            raise UsageError(
                f"{path.name} is not the first of {parts} parts",
                code="gguf.part-name",
                hint="name the part that ends in -00001-of-…",
            )
        paths = _part_paths(path, parts)
        headers = [header if p == path else _read_header(p, limit_bytes) for p in paths]
        for number, (p, h) in enumerate(zip(paths, headers, strict=True)):
            if (h.get("split.no"), h.get("split.count")) != (number, parts):
                raise _damaged(p, f"is not part {number + 1} of {parts}")
        file = cls(paths, headers)
        expected = headers[0].get("split.tensors.count")
        if expected != len(file.tensors):
            raise _damaged(path, f"its parts hold {len(file.tensors)} of {expected} tensors")
        return file

    # metadata

    def get(self, key: str) -> MetadataValue | None:
        """The value under `key`, or None; long arrays that were given back are read again."""
        try:
            return self._header.get(key)
        except KeyError:
            return self.fresh_header().get(key)

    def give_back_arrays(self) -> None:
        """Frees the long arrays of the header: those of a vocabulary take tens of megabytes."""
        if isinstance(self._header, GGUFHeader):
            self._header = _ShortHeader(self._header)

    def keys(self) -> tuple[str, ...]:
        return self._header.keys()

    def array_length(self, key: str) -> int | None:
        return self._header.array_length(key)

    def text(self, key: str) -> str | None:
        """The value under `key` when it is a string."""
        if self._header.array_length(key) is not None:
            return None  # without making a list of it
        value = self.get(key)
        return value if isinstance(value, str) else None

    @property
    def version(self) -> int:
        return self._header.version

    @property
    def path(self) -> Path:
        """The file, or the first part of a split one."""
        return self.paths[0]

    @property
    def architecture(self) -> str:
        """The name under `general.architecture`, or an empty string."""
        return self.text("general.architecture") or ""

    # layout

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks in order of execution.

        Raises:
            IntegrityError: the numbers have a hole or are absurd.
        """
        found: dict[int, dict[str, TensorInfo]] = {}
        for name, tensor in self.tensors.items():
            match = _BLOCK_NAME.fullmatch(name)
            if match:
                found.setdefault(int(match[1]), {})[match[2]] = tensor
        if found and max(found) >= min(_MAX_BLOCKS, len(found)):
            raise _damaged(self.path, f"has {len(found)} blocks numbered up to {max(found)}")
        return tuple(Block(i, found[i]) for i in range(len(found)))

    @cached_property
    def outer_tensors(self) -> dict[str, TensorInfo]:
        """What belongs to no block: embedding, output norm, head, rope factors."""
        return {n: t for n, t in self.tensors.items() if not _BLOCK_NAME.fullmatch(n)}

    def byte_ranges(self, span: BlockSpan) -> tuple[ByteRange, ...]:
        """The tensor bytes of a span of blocks, without embedding and head."""
        return merge(r for i in span for r in self.blocks[i].byte_ranges)

    def missing(self, ranges: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
        """Those of `ranges` that reach past the present end of their file."""
        sizes = [p.stat().st_size if p.exists() else 0 for p in self.paths]
        return tuple(r for r in ranges if r.end > sizes[r.file])

    @property
    def header_ranges(self) -> tuple[ByteRange, ...]:
        """The headers of all parts."""
        return tuple(ByteRange(i, 0, end) for i, end in enumerate(self.data_offsets))

    @property
    def num_bytes(self) -> int:
        """The length of all parts once they are complete, without padding after the last tensor."""
        ends = list(self.data_offsets)
        for t in self.tensors.values():
            ends[t.file] = max(ends[t.file], t.start + t.num_bytes)
        return sum(ends)

    def fresh_header(self) -> GGUFHeader:
        """The header of the first part once more, to be changed and written elsewhere."""
        return _read_header(self.path, HEADER_LIMIT_BYTES)

    def map(self) -> "list[FileMapping]":
        """Maps every part into memory, read only. Nothing is read until it is touched."""
        return [FileMapping(p) for p in self.paths]


class FileMapping:
    """A file as read-only memory; the address is valid as long as this object lives."""

    def __init__(self, path: Path) -> None:
        # Here and not above: a header opens, and a vocabulary begins to load, before numpy is there.
        import numpy as np

        with open_regular(path) as f:
            self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self.num_bytes = len(self._map)
        self._view = np.frombuffer(self._map, np.uint8)
        self.address = self._view.ctypes.data

    def release(self, start: int, end: int) -> None:
        """Lets the system drop the pages that lie wholly inside, where it knows how."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def populate(self, start: int, end: int) -> None:
        """Reads these bytes now and in one go, rather than page by page, where the system knows how."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        for at in range(first, end, _POPULATE_STEP_BYTES):
            try:
                self._map.madvise(_MADV_POPULATE_READ, at, min(_POPULATE_STEP_BYTES, end - at))
            except (OSError, AttributeError):
                return


def _read_header(path: Path, limit_bytes: int) -> GGUFHeader:
    try:
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            if f.read(4) != _MAGIC:
                raise IntegrityError(
                    f"{path.name} is not a GGUF file",
                    code="gguf.magic",
                    source=str(path),
                    hint="GGUF files begin with the letters GGUF; is this a full download?",
                )
            window = mmap.mmap(f.fileno(), min(size, limit_bytes), access=mmap.ACCESS_COPY)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(
            f"no model file at {path}", code="model.not-found", hint="`bmrt ls` lists what is here"
        ) from error
    except PermissionError as error:
        raise UsageError(f"{path} may not be read", code="model.unreadable") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}",
            code="model.unreadable",
            hint="name the GGUF file itself",
        ) from error
    try:
        return GGUFHeader(window)
    except HeaderError as error:
        more = f", or is longer than {format_bytes(limit_bytes)}" if size > limit_bytes else ""
        raise IntegrityError(
            f"{path.name}: the header is damaged or incomplete{more}: {error}",
            code="gguf.header",
            source=str(path),
            hint="fetch the file again; `bmrt show` needs at least its header",
        ) from error


def _part_paths(path: Path, parts: int) -> tuple[Path, ...]:
    match = _PART_NAME.fullmatch(path.name)
    if not match or int(match[3]) != parts:
        raise UsageError(
            f"{path.name} is one of {parts} parts, but is not named like one",
            code="gguf.part-name",
            hint=f"expected a name like model-00001-of-{parts:05d}.gguf",
        )
    return tuple(
        path.with_name(f"{match[1]}-{number:05d}-of-{parts:05d}.gguf")
        for number in range(1, parts + 1)
    )


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{path.name} {what}", code="gguf.header", source=str(path))
