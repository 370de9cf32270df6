"""Books in EPUB: a zip of pages, read like other pages, in the order in which a book is read.

Considered: EbookLib, whose licence passes itself on.
"""

import posixpath
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Refusal
from baremetalrt.documents.readers.archive import Archive, opened
from baremetalrt.documents.readers.html import html_to_text, page_of
from baremetalrt.documents.readers.source import Source, too_large

_CONTAINER: Final = "META-INF/container.xml"
_ENCRYPTION: Final = "META-INF/encryption.xml"
_RIGHTS: Final = "META-INF/rights.xml"
_PAGES: Final = ("application/xhtml+xml", "text/html", "application/xml", "text/x-oeb1-document")
_CONTAINER_NAMESPACE: Final = "urn:oasis:names:tc:opendocument:xmlns:container "
_PACKAGE_NAMESPACES: Final = ("http://www.idpf.org/2007/opf ", "http://openebook.org/")


def read_epub(source: Source) -> Iterator[Document]:
    """One document of all chapters; contents and covers of words that are pictures add nothing."""
    with opened(source) as archive:
        if _is_locked(archive):
            raise Refusal("document.encrypted", "it is encrypted")
        root = _Root()
        archive.parse(_CONTAINER, root)
        package = _Package()
        archive.parse(root.path, package)
        folder = posixpath.dirname(root.path)
        texts, num_chars = [], 0
        for target in package.spine():
            name = posixpath.normpath(posixpath.join("/", folder, unquote(target))).lstrip("/")
            if name not in archive.names:
                continue
            text = html_to_text(page_of(archive.read(name)))[1]
            num_chars += len(text)
            if num_chars > source.limits.text_chars:
                raise too_large("its text is", source.limits.text_chars)
            texts.append(text)
        title = archive.title(root.path)
    text = clean("\n\n".join(filter(None, texts)))
    if not has_words(text):
        raise EMPTY
    yield Document(text=text, origin=source.origin, kind="epub", title=one_line_title(title))


def _is_locked(archive: Archive) -> bool:
    """Whether more than fonts is encrypted; those are in many books that anybody may read."""
    if _RIGHTS in archive.names:
        return True
    return _ENCRYPTION in archive.names and b"xmlenc#aes" in archive.read(_ENCRYPTION)


class _Root:
    """Finds the description of the book."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.path = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == f"{_CONTAINER_NAMESPACE}rootfile" and not self.path:
            self.path = attributes.get("full-path", "")

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...


class _Package:
    """Collects which parts there are, and which are read in which order."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._targets: dict[str, str] = {}
        self._order: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not name.startswith(_PACKAGE_NAMESPACES):
            return
        match name.rpartition(" ")[2]:
            case "item":
                is_contents = "nav" in attributes.get("properties", "").split()
                if attributes.get("media-type") in _PAGES and not is_contents:
                    target = attributes.get("href", "").partition("#")[0]
                    self._targets[attributes.get("id", "")] = target
            case "itemref":
                self._order.append(attributes.get("idref", ""))

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...

    def spine(self) -> list[str]:
        """Where the pages are, each once."""
        return list(
            dict.fromkeys(self._targets[name] for name in self._order if name in self._targets)
        )
