"""OpenDocument texts and presentations, as LibreOffice writes them."""

from collections.abc import Iterator
from typing import Final

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Refusal
from baremetalrt.documents.names import names_in
from baremetalrt.documents.readers.archive import opened
from baremetalrt.documents.readers.source import Source

_PREFIX: Final = "urn:oasis:names:tc:opendocument:xmlns:"
_MAIN: Final = "content.xml"
_PROPERTIES: Final = "meta.xml"
_MANIFEST: Final = "META-INF/manifest.xml"
# Deleted words, comments, what the program fills in, names and descriptions of pictures.
_SILENT: Final = frozenset(
    names_in(
        """
        text:tracked-changes office:annotation office:annotation-end text:note-citation
        text:table-of-content text:alphabetical-index text:page-number text:page-count
        text:ruby-text svg-compatible:title svg-compatible:desc office:forms text:hidden-text
        office:scripts presentation:footer-decl presentation:date-time-decl
        """
    )
)
_MAX_SPACES: Final = 100


def read_odf(source: Source) -> Iterator[Document]:
    """One document: text, tables, notes."""
    with opened(source) as archive:
        if _MANIFEST in archive.names and b"encryption-data" in archive.read(_MANIFEST):
            raise Refusal("document.encrypted", "it is encrypted")
        if _MAIN not in archive.names:
            raise Refusal("document.no-reader", "it is an archive, but no OpenDocument file")
        body = _Body()
        text = archive.parse(_MAIN, body)
        title = archive.title(_PROPERTIES)
    text = clean("\n\n".join((text, *body.notes)))
    if not has_words(text):
        raise EMPTY
    yield Document(text=text, origin=source.origin, kind="odt", title=one_line_title(title))


class _Body:
    """Collects what a document shows, element by element; notes below it."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.notes: list[str] = []
        self._outer: list[list[str]] = []  # what is being written where a note interrupts it
        self._paragraph_depth = self._cell_depth = self._num_silent = 0
        self._depths: list[int] = []
        self._prefix = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = _local(name)
        said = {_local(key): value for key, value in attributes.items()}
        is_hidden = said.get("text:display") == "none" or said.get("text:is-hidden") == "true"
        if self._num_silent or local in _SILENT or is_hidden:
            self._num_silent += 1
            return
        match local:
            case "text:p" | "text:h":
                self._paragraph_depth += 1
                if local == "text:h":
                    level = said.get("text:outline-level", "1")
                    self._prefix = "#" * min(int(level) if level.isdigit() else 1, 6) + " "
                self.pieces.append(self._prefix)
                self._prefix = ""
            case "text:list-item":
                self._prefix = "- "
            case "text:s":
                count = said.get("text:c", "1")
                self.pieces.append(" " * min(int(count) if count.isdigit() else 1, _MAX_SPACES))
            case "text:tab":
                self.pieces.append("\t")
            case "text:line-break":
                self.pieces.append("\n")
            case "table:table-cell":
                self._cell_depth += 1
            case "text:note":
                self._outer.append(self.pieces)
                self._depths += (self._paragraph_depth, self._cell_depth)
                self.pieces, self._paragraph_depth, self._cell_depth = [], 0, 0

    def end(self, name: str) -> None:
        if self._num_silent:
            self._num_silent -= 1
            return
        match _local(name):
            case "text:p" | "text:h":
                self._paragraph_depth -= 1
                self.pieces.append("\n" if self._cell_depth else "\n\n")
            case "table:table-cell":
                self._cell_depth -= 1
                while self.pieces and self.pieces[-1] in ("\n", ""):
                    self.pieces.pop()
                self.pieces.append("\t")
            case "table:table-row":
                self.pieces.append("\n")
            case "table:table":
                self.pieces.append("\n")
            case "text:note":
                self.notes.append("".join(self.pieces).strip("\n"))
                self.pieces = self._outer.pop()
                self._cell_depth, self._paragraph_depth = self._depths.pop(), self._depths.pop()

    def text(self, data: str) -> None:
        if self._paragraph_depth and not self._num_silent:
            self.pieces.append(data)


def _local(name: str) -> str:
    """`text:p` for what has the namespace of texts and the name `p`."""
    namespace, _, local = name.rpartition(" ")
    if not namespace.startswith(_PREFIX):
        return ""
    return f"{namespace.removeprefix(_PREFIX).partition(':')[0]}:{local}"
