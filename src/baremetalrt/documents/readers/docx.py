"""Word files: paragraphs, tables and notes, without what Word does not show."""

from collections.abc import Iterator
from typing import Final

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document
from baremetalrt.documents.readers.archive import opened
from baremetalrt.documents.readers.source import Source

_WORDS: Final = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_STRICT: Final = "http://purl.oclc.org/ooxml/wordprocessingml/main "
_COMPATIBLE: Final = "http://schemas.openxmlformats.org/markup-compatibility/2006 "
MAIN: Final = "word/document.xml"
PROPERTIES: Final = "docProps/core.xml"
_NOTES: Final = ("word/footnotes.xml", "word/endnotes.xml")
# Moved away from here, deleted, said elsewhere, or how to pronounce a word.
_SILENT: Final = ("moveFrom", "del", "rt")


def read_docx(source: Source) -> Iterator[Document]:
    """One document: text, tables, notes; tracked deletions are gone, fields show their result."""
    with opened(source) as archive:
        text = "\n".join(
            archive.parse(part, _Paragraphs()) for part in (MAIN, *_NOTES) if part in archive.names
        )
        title = archive.title(PROPERTIES)
    text = clean(text)
    if not has_words(text):
        raise EMPTY
    yield Document(text=text, origin=source.origin, kind="docx", title=one_line_title(title))


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
