"""Plain text, Markdown and source code."""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Final

from baremetalrt.documents.charset import decode, is_binary
from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Kind, Refusal
from baremetalrt.documents.kinds import HEAD_BYTES
from baremetalrt.documents.readers.source import Source

_HEADING: Final = re.compile(r"^#{1,2}[ \t]+(.+)$", re.MULTILINE)
_FRONT_MATTER: Final = re.compile(r"\A---\n(?:[^\n]*\n){0,100}?---\n")
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)


def read_text(source: Source, kind: Kind) -> Iterator[Document]:
    """One document; Markdown without its front matter, code with its layout."""
    data = source.read_all()
    if is_binary(data[:HEAD_BYTES]):
        raise Refusal("document.no-reader", "it is no text, and of no kind that can be read")
    text = clean(decode(data, source.charset), keeps_layout=kind == "code")
    title = PurePath(source.name).stem
    if kind == "markdown":
        text = clean(_COMMENT.sub("", _FRONT_MATTER.sub("", text)))
        if heading := _HEADING.search(text):
            title = heading[1]
    if not has_words(text):
        raise EMPTY
    yield Document(text=text, origin=source.origin, kind=kind, title=one_line_title(title))
