"""Word files: a zip with XML in it, read in pieces, because either can be a bomb.

python-docx builds the whole tree and knows neither notes nor text boxes; this needs the text alone.
"""

import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Final
from xml.parsers import expat

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Refusal
from baremetalrt.documents.readers.source import Source, too_large

_WORDS: Final = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_STRICT: Final = "http://purl.oclc.org/ooxml/wordprocessingml/main "
_COMPATIBLE: Final = "http://schemas.openxmlformats.org/markup-compatibility/2006 "
_TITLE: Final = "http://purl.org/dc/elements/1.1/ title"
_MAIN: Final = "word/document.xml"
_PROPERTIES: Final = "docProps/core.xml"
_NOTES: Final = ("word/footnotes.xml", "word/endnotes.xml")
# Moved away from here, deleted, said elsewhere, or how to pronounce a word.
_SILENT: Final = ("moveFrom", "del", "rt")
_MAX_ENTRIES: Final = 10_000
_MAX_DEPTH: Final = 1_000
_CHUNK_BYTES: Final = 64 * 1024


def read_docx(source: Source) -> Iterator[Document]:
    """One document: text, tables, notes; tracked deletions are gone, fields show their result."""
    if source.num_bytes() > source.limits.container_bytes:
        raise too_large("it is", source.limits.container_bytes)
    try:
        archive = zipfile.ZipFile(source.file)
        names = archive.namelist()
        if len(names) > _MAX_ENTRIES:
            raise Refusal("document.too-large", f"it holds more than {_MAX_ENTRIES} files")
        if _MAIN not in names:
            raise Refusal("document.no-reader", "it is an archive, but no Word file")
        budget = _Budget(source.limits.expanded_bytes)
        text = "\n".join(
            _parse(archive, part, budget, _Paragraphs())
            for part in (_MAIN, *_NOTES)
            if part in names
        )
        title = _parse(archive, _PROPERTIES, budget, _Title()) if _PROPERTIES in names else ""
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError) as error:
        raise Refusal("document.damaged", f"it is damaged: {error}") from error
    except (NotImplementedError, UnicodeError, ValueError, OverflowError) as error:
        raise Refusal("document.damaged", f"it is unusual: {error}") from error
    except RuntimeError as error:  # what zipfile raises where a password is needed
        raise Refusal("document.encrypted", "it is encrypted") from error
    text = clean(text)
    if not has_words(text):
        raise EMPTY
    yield Document(text=text, origin=source.origin, kind="docx", title=one_line_title(title))


class _Budget:
    """What may still be expanded, over all parts."""

    def __init__(self, num_bytes: int) -> None:
        self._total = self._left = num_bytes

    def take(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise too_large("its content is", self._total)


class _Paragraphs:
    """Collects what a Word file shows, element by element."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._in_text = False
        self._in_run = self._is_hidden = self._is_placeholder = False
        self._cell_depth = 0
        # Depth inside of what is not shown.
        self._num_silent = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = _local(name)
        if (
            self._num_silent
            or name == f"{_COMPATIBLE}Fallback"
            or local in _SILENT
            or (local == "sdtContent" and self._is_placeholder)
        ):
            self._num_silent += 1
            self._is_placeholder = False
            return
        match local:
            case "r":
                self._in_run, self._is_hidden = True, False
            case "vanish" | "specVanish" | "webHidden" if self._in_run:
                self._is_hidden = _is_on(attributes)
            case "showingPlcHdr":
                self._is_placeholder = _is_on(attributes)
            case "t":
                self._in_text = not self._is_hidden
            case "tab":
                self.pieces.append("\t")
            case "br" | "cr":
                self.pieces.append("\n")
            case "noBreakHyphen":
                self.pieces.append("-")
            case "tc":
                self._cell_depth += 1
            case "pStyle":
                self.pieces.append(_prefix(attributes))

    def end(self, name: str) -> None:
        if self._num_silent:
            self._num_silent -= 1
            return
        match _local(name):
            case "t":
                self._in_text = False
            case "r":
                self._in_run = self._is_hidden = False
            case "sdt":
                self._is_placeholder = False
            case "p":
                self.pieces.append("\n" if self._cell_depth else "\n\n")
            case "tc":
                self._cell_depth -= 1
                while self.pieces and self.pieces[-1] == "\n":
                    self.pieces.pop()
                self.pieces.append("\t")
            case "tr":
                self.pieces.append("\n")

    def text(self, data: str) -> None:
        if self._in_text and not self._num_silent:
            self.pieces.append(data)


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


def _parse(archive: zipfile.ZipFile, part: str, budget: _Budget, into: _Paragraphs | _Title) -> str:
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
        # Entities are what makes small XML large; Word never writes a document type.
        raise Refusal("document.damaged", "it declares a document type, which no Word file does")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = into.text
    parser.StartDoctypeDeclHandler = refuse_doctype
    with archive.open(part) as file:
        while chunk := file.read(_CHUNK_BYTES):
            budget.take(len(chunk))
            parser.Parse(chunk, False)
    parser.Parse(b"", True)
    return "".join(into.pieces)


def _prefix(attributes: dict[str, str]) -> str:
    """Headings and bullets as Markdown has them."""
    style = next((v for k, v in attributes.items() if k.endswith(" val")), "").lower()
    if style[:-1] == "heading" and style[-1] in "123456":
        return "#" * int(style[-1]) + " "
    return "- " if style.startswith("listbullet") else ""


def _is_on(attributes: dict[str, str]) -> bool:
    """Whether a switch is on: it is by being there, unless it says otherwise."""
    said = next((v for k, v in attributes.items() if k.endswith(" val")), "")
    return said not in ("0", "false", "off")


def _local(name: str) -> str:
    for namespace in (_WORDS, _STRICT):
        if name.startswith(namespace):
            return name[len(namespace) :]
    return ""
