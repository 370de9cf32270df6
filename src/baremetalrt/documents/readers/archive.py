"""Zips with XML in them, as office programs write: read in pieces, because either can be a bomb.

Considered: python-docx, python-pptx and odfdo, which build whole trees, and read every picture and film
of a file into memory; here it is the text alone that is asked for.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol
from xml.parsers import expat

from baremetalrt.documents.document import Refusal
from baremetalrt.documents.readers.source import Source, too_large

_TITLE: Final = "http://purl.org/dc/elements/1.1/ title"
_MAX_ENTRIES: Final = 10_000
_MAX_DEPTH: Final = 1_000
_CHUNK_BYTES: Final = 64 * 1024


class Handler(Protocol):
    """Is told of elements as they come, with names of namespace, space, and local name."""

    pieces: list[str]

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...


class Archive:
    """An open zip. What is expanded is counted over all parts."""

    def __init__(self, file: zipfile.ZipFile, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = self._left = max_bytes
        self.names = frozenset(file.namelist())

    def chunks(self, part: str) -> Iterator[bytes]:
        """A part, piece by piece."""
        with self._file.open(part) as file:
            while chunk := file.read(_CHUNK_BYTES):
                self._left -= len(chunk)
                if self._left < 0:
                    raise too_large("its content is", self._max_bytes)
                yield chunk

    def read(self, part: str) -> bytes:
        """A part as a whole."""
        return b"".join(self.chunks(part))

    def parse(self, part: str, into: Handler) -> str:
        """What a handler makes of a part."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        depth = 0

        def start(name: str, attributes: dict[str, str]) -> None:
            nonlocal depth
            depth += 1
            if depth > _MAX_DEPTH:
                raise Refusal("document.nested", "its elements are nested too deeply")
            into.start(name, attributes)

        def end(name: str) -> None:
            nonlocal depth
            depth -= 1
            into.end(name)

        def refuse_doctype(*_: Any) -> None:
            # Entities are what makes small XML large; no office program writes a document type.
            raise Refusal(
                "document.damaged", "it declares a document type, which no such file does"
            )

        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = into.text
        parser.StartDoctypeDeclHandler = refuse_doctype
        for chunk in self.chunks(part):
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
        return "".join(into.pieces)

    def title(self, part: str) -> str:
        """The title in the properties of a file; empty where it has none."""
        return self.parse(part, _Title()) if part in self.names else ""


@contextmanager
def opened(source: Source) -> Iterator[Archive]:
    """The archive that a file is.

    Raises:
        Refusal: it is damaged, encrypted or too large; also of what is raised while it is read.
    """
    if source.num_bytes() > source.limits.container_bytes:
        raise too_large("it is", source.limits.container_bytes)
    try:
        file = zipfile.ZipFile(source.file)
        if len(file.namelist()) > _MAX_ENTRIES:
            raise Refusal("document.too-large", f"it holds more than {_MAX_ENTRIES} files")
        yield Archive(file, source.limits.expanded_bytes)
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, KeyError) as error:
        raise Refusal("document.damaged", f"it is damaged: {error}") from error
    except (NotImplementedError, UnicodeError, ValueError, OverflowError) as error:
        raise Refusal("document.damaged", f"it is unusual: {error}") from error
    except RuntimeError as error:  # what zipfile raises where a password is needed
        raise Refusal("document.encrypted", "it is encrypted") from error


class _Title:
    """Collects the title in the properties of a file."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._inside = False

    def start(self, name: str, _: dict[str, str]) -> None:
        self._inside = name == _TITLE

    def end(self, _: str) -> None:
        self._inside = False

    def text(self, data: str) -> None:
        if self._inside:
            self.pieces.append(data)


class Relations:
    """What a part of an OOXML file refers to: kind, target and id of each."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.found: list[tuple[str, str, str]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name.endswith(" Relationship") and attributes.get("TargetMode") != "External":
            kind = attributes.get("Type", "").rpartition("/")[2]
            self.found.append((kind, attributes.get("Target", ""), attributes.get("Id", "")))

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...
