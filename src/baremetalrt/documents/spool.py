"""Documents on their way, on disk and not in memory: written once, read as often as needed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

import msgspec

from baremetalrt.documents.document import Document

_LENGTH_BYTES: Final = 4
_BUFFER_BYTES: Final = 1 << 20
_decoder: Final = msgspec.msgpack.Decoder(Document)


class Spool:
    """A file that only its owner can read, gone when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_private(path, "w+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def append(self, document: Document) -> None:
        data = msgspec.msgpack.encode(document)
        self._file.write(len(data).to_bytes(_LENGTH_BYTES, "little") + data)

    def __iter__(self) -> Iterator[Document]:
        """All documents, in the order in which they came."""
        self._file.flush()
        self._file.seek(0)
        while head := self._file.read(_LENGTH_BYTES):
            yield _decoder.decode(self._file.read(int.from_bytes(head, "little")))


def open_private(path: Path, mode: str) -> BinaryIO:
    """A new file that nobody but its owner can read, at no moment."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o600), mode, _BUFFER_BYTES)  # type: ignore[return-value]
