"""Presentations of PowerPoint: slides in their order, with notes and diagrams."""

import posixpath
from collections.abc import Iterator
from typing import Final

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document
from baremetalrt.documents.readers.archive import Archive, Relations, opened
from baremetalrt.documents.readers.docx import PROPERTIES
from baremetalrt.documents.readers.source import Source

MAIN: Final = "ppt/presentation.xml"
_COMPATIBLE: Final = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
_DRAWING: Final = ("/drawingml/", "/presentationml/")
# What a program fills in on every slide.
_MACHINERY: Final = ("sldNum", "dt", "ftr", "hdr", "sldImg")
_TITLES: Final = ("title", "ctrTitle")
_BESIDE: Final = ("notesSlide", "diagramData")


def read_pptx(source: Source) -> Iterator[Document]:
    """One document, with `#` before the titles of slides."""
    with opened(source) as archive:
        pieces = []
        for slide in _slides(archive):
            pieces.append(archive.parse(slide, _Shapes()))
            for kind, target, _ in _relations(archive, slide):
                if kind in _BESIDE and target in archive.names:
                    pieces.append(archive.parse(target, _Shapes()))
        title = archive.title(PROPERTIES)
    text = clean("\n\n".join(piece.strip("\n") for piece in pieces))
    if not has_words(text):
        raise EMPTY
    yield Document(text=text, origin=source.origin, kind="pptx", title=one_line_title(title))


def _slides(archive: Archive) -> list[str]:
    order = _Order()
    archive.parse(MAIN, order)
    targets = {name: target for _, target, name in _relations(archive, MAIN)}
    found = [targets[name] for name in order.ids if name in targets]
    return [slide for slide in found if slide in archive.names]


def _relations(archive: Archive, part: str) -> list[tuple[str, str, str]]:
    folder, name = posixpath.split(part)
    beside = f"{folder}/_rels/{name}.rels"
    if beside not in archive.names:
        return []
    relations = Relations()
    archive.parse(beside, relations)
    return [
        (kind, posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/"), identity)
        for kind, target, identity in relations.found
    ]


class _Order:
    """Collects which slides there are, in their order."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.ids: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name.endswith(" sldId"):
            self.ids += [v for k, v in attributes.items() if k.endswith("relationships id")]

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...


class _Shapes:
    """Collects what is written on a slide."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._in_text = self._is_machinery = self._is_title = False
        self._cell_depth = 0
        self._num_silent = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        is_filled_in = local == "fld" and attributes.get("type", "").startswith(("slide", "date"))
        if self._num_silent or name == _COMPATIBLE or is_filled_in:
            self._num_silent += 1
            return
        match local:
            case "sp" | "pt":
                self._is_machinery = self._is_title = False
            case "ph":
                self._is_machinery = attributes.get("type") in _MACHINERY
                self._is_title = attributes.get("type") in _TITLES
            case "t":
                # Those of the strict kind differ; formulas have a `t` of their own.
                self._in_text = not self._is_machinery and any(one in namespace for one in _DRAWING)
                if self._in_text and self._is_title:
                    self.pieces.append("# ")
                    self._is_title = False
            case "br":
                self.pieces.append("\n")
            case "tab":
                self.pieces.append("\t")
            case "tc":
                self._cell_depth += 1

    def end(self, name: str) -> None:
        if self._num_silent:
            self._num_silent -= 1
            return
        match name.rpartition(" ")[2]:
            case "t":
                self._in_text = False
            case "p":
                self.pieces.append("\n")
            case "tc":
                self._cell_depth -= 1
                while self.pieces and self.pieces[-1] == "\n":
                    self.pieces.pop()
                self.pieces.append("\t")
            case "tr" | "sp":
                self.pieces.append("\n")

    def text(self, data: str) -> None:
        if self._in_text and not self._num_silent:
            self.pieces.append(data)
