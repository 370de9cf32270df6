"""Rich text, by striprtf, with what it does not know of taken out before: hidden words and pictures."""

import codecs
import re
from collections.abc import Iterator
from typing import Final

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Refusal
from baremetalrt.documents.readers.source import Source

# Pictures and what programs keep for themselves, as digits.
_DIGITS: Final = re.compile(r"(?:[0-9a-fA-F]{40,}[\r\n]*)+")
_BINARY: Final = re.compile(r"\\bin(\d{1,9}) ?")
# A destination that readers who do not know it pass over; all others in a group with it do so, too.
_UNKNOWN: Final = r"\\xe "
_HIDDEN_STRETCH: Final = re.compile(r"\\(?:v|deleted)(?![a-z0-9])([^{}\\]*)\\(?:v|deleted)0 ?")
_HIDDEN_GROUP: Final = re.compile(r"\\(?:v|deleted)(?:1)?(?![a-z0-9])")
_LINK: Final = re.compile(r"(\\fldinst[^}]{0,80}?)HYPERLINK")
# Stands for what striprtf puts between cells.
_BAR: Final = "\ue07c"
_CODE_PAGE: Final = re.compile(r"\\ansicpg(\d{1,5})")
_FONT: Final = re.compile(r"(\{\\f\d{1,5})(?![^{}]{0,200}\\fcharset)(?=[^{}\d][^{}]{0,200};)")
_HEAD_CHARS: Final = 1 << 16
_TITLE: Final = re.compile(r"\{\\title ([^{}\\]{1,200})\}")
_BEYOND_ASCII: Final = re.compile(r"[\x80-\xff]")


def read_rtf(source: Source) -> Iterator[Document]:
    """One document; cells of tables are a tab apart."""
    from striprtf.striprtf import rtf_to_text

    marked = _prepared(source.read_all())
    try:
        text = rtf_to_text(marked, _code_page(marked), "replace")  # type: ignore[no-untyped-call]
    except (LookupError, ValueError, OverflowError, TypeError) as error:
        raise Refusal("document.damaged", f"it is damaged: {error}") from error
    # Characters beyond the first plane are two halves in this format.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = clean(text.replace("|\n", "\n").replace("|", "\t").replace(_BAR, "|"))
    if not has_words(text):
        raise EMPTY
    found = _TITLE.search(marked, 0, _HEAD_CHARS)
    title = found[1] if found else ""
    yield Document(text=text, origin=source.origin, kind="rtf", title=one_line_title(title))


def _code_page(text: str) -> str:
    found = _CODE_PAGE.search(text, 0, _HEAD_CHARS)
    name = f"cp{found[1]}" if found else "cp1252"
    try:
        codecs.lookup(name)
    except LookupError:
        return "cp1252"
    return name


def _prepared(data: bytes) -> str:
    whole, pieces, at = data.decode("latin-1"), [], 0
    while match := _BINARY.search(whole, at):
        pieces.append(whole[at : match.start()])
        at = match.end() + int(match[1])
    text = _DIGITS.sub("", "".join((*pieces, whole[at:]))).replace("|", _BAR)
    text = _HIDDEN_STRETCH.sub("", text)
    text = _HIDDEN_GROUP.sub(_UNKNOWN, text)
    # A font without a character set of its own would take that of the next.
    text = _FONT.sub(r"\1\\fcharset1", text[:_HEAD_CHARS]) + text[_HEAD_CHARS:]
    text = _LINK.sub(r"\1", text)
    # Not allowed, and written all the same: bytes of the code page as they are.
    return _BEYOND_ASCII.sub(lambda match: f"\\'{ord(match[0]):02x}", text)
