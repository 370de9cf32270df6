"""One text on disk: the keys and values of its tokens, and all that they hold for.

A file is its head and then chunks of 256 tokens, each with the keys and the values of every block. The
head, and every chunk that is read, is compared with its checksum, so a file that was cut or altered is as
good as none.
"""

import hashlib
import json
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.prefix_store import PrefixKind
from baremetalrt.core.files import open_regular
from baremetalrt.core.units import MIB, round_up

_MAGIC: Final = b"BMRTKV01"
# magic, length of what follows, its digest
_FRONT: Final = struct.Struct("<8sQ32s")
_MAX_HEAD_BYTES: Final = 64 * MIB
_PAGE_BYTES: Final = 4096

Chunk = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class PrefixText:
    """A text to be kept: `chunks` are its cells, 256 at a time, the last time what is left.

    Blocks with a sliding window have nothing of it before `floor`.
    """

    kind: PrefixKind
    tokens: "array[int]"
    floor: int
    chunk_bytes: Sequence[int]
    chunks: Iterator[Chunk]


@dataclass(frozen=True)
class PrefixFile:
    """A text on disk, as its head says."""

    path: Path
    tokens: "array[int]"
    floor: int
    chunk_bytes: tuple[int, ...]
    checksums: tuple[int, ...]
    data_start: int


class PrefixReader:
    """Reads chunks of a text. An open file stays whole, though its name may go."""

    def __init__(self, stored: PrefixFile, file: BinaryIO) -> None:
        self._stored = stored
        self._file = cast(BufferedReader, file)

    def read(self, index: int, chunk: Chunk) -> bool:
        """Fills the cells of a chunk; False if they are not what was written, whatever is there now."""
        stored = self._stored
        if sum(part.nbytes for part in chunk) != stored.chunk_bytes[index]:
            return False
        checksum = 0
        try:
            self._file.seek(stored.data_start + sum(stored.chunk_bytes[:index]))
            for part in chunk:
                if self._file.readinto(part.data) != part.nbytes:
                    return False
                checksum = zlib.crc32(part.data, checksum)
        except OSError:
            return False
        return checksum == stored.checksums[index]


def write(file: BinaryIO, made_by: Mapping[str, Any], text: PrefixText) -> None:
    """Writes a text. `made_by`: what its numbers depend on besides its kind and its tokens."""
    checksums = [0] * len(text.chunk_bytes)
    head = _head(made_by, text, checksums)
    file.seek(round_up(len(head), _PAGE_BYTES))
    for i, chunk in enumerate(text.chunks):
        for part in chunk:
            checksums[i] = zlib.crc32(part.data, checksums[i])
            file.write(part.data)
    file.seek(0)
    file.write(_head(made_by, text, checksums))


def _head(made_by: Mapping[str, Any], text: PrefixText, checksums: Sequence[int]) -> bytes:
    about = {
        "made_by": made_by,
        "kind": in_words(text.kind),
        "floor": text.floor,
        "chunk_bytes": list(text.chunk_bytes),
        # of a fixed width: they are known only once the rest is written
        "checksums": [f"{checksum:08x}" for checksum in checksums],
    }
    body = json.dumps(about).encode() + b"\0" + np.frombuffer(text.tokens, np.int32).tobytes()
    return _FRONT.pack(_MAGIC, len(body), hashlib.sha256(body).digest()) + body


def read(path: Path, made_by: Mapping[str, Any], kind: PrefixKind | None) -> PrefixFile | None:
    """What a file holds; None if it is of something else, or not whole. Any kind will do for None."""
    try:
        with open_regular(path, follow=False) as file:
            return _read(path, file, made_by, kind)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _read(
    path: Path, file: BinaryIO, made_by: Mapping[str, Any], kind: PrefixKind | None
) -> PrefixFile | None:
    magic, num_bytes, head_digest = _FRONT.unpack(file.read(_FRONT.size))
    if magic != _MAGIC or num_bytes > _MAX_HEAD_BYTES:
        return None
    body = file.read(num_bytes)
    if hashlib.sha256(body).digest() != head_digest:
        return None
    words, _, numbers = body.partition(b"\0")
    about = json.loads(words)
    if about["made_by"] != made_by or (kind is not None and about["kind"] != in_words(kind)):
        return None
    tokens = array("i")
    tokens.frombytes(numbers)
    sizes = tuple(about["chunk_bytes"])
    start = round_up(_FRONT.size + num_bytes, _PAGE_BYTES)
    if os.fstat(file.fileno()).st_size != start + sum(sizes):
        return None
    checksums = tuple(int(checksum, 16) for checksum in about["checksums"])
    return PrefixFile(path, tokens, int(about["floor"]), sizes, checksums, start)


def in_words(kind: PrefixKind) -> dict[str, Any]:
    """As JSON knows it. Whose key it is, itself a digest, is not told to who finds the file."""
    return {
        "part": [kind.part.start, kind.part.end] if kind.part is not None else None,
        "adapters": [[name, weight] for name, weight in kind.adapters],
        "owner": digest(list(kind.owner)),
    }


def digest(of: Any) -> str:
    """Names bytes, or what JSON can say."""
    data = of if isinstance(of, bytes) else json.dumps(of, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:32]
