"""Text as it should be learned: one kind of line end, no invisible characters, no encoded data."""

import re
import unicodedata
from functools import cache
from typing import Final

from baremetalrt.documents.encoded import without_encoded

# Controls but tab and line feed; zero-width and direction marks, soft hyphens, BOMs; halves of pairs.
_INVISIBLE_RANGES: Final = (
    "\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff"
    "\ufffe\ufff9-\ufffb\ud800-\udfff"
)
_INVISIBLE: Final = re.compile(f"[{_INVISIBLE_RANGES}]")
# Colours of terminals, and letters that a typewriter would have struck twice.
_ESCAPES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)"
    r"|\x1b[ -/]+[0-~]|\x1b[78=>cDEHMNOZ]|[^\n]\x08"
)
_LINE_ENDS: Final = re.compile("\r\n?|[\x0b\x0c\x85\u2028]")
_BLANK_LINES: Final = re.compile(r"\n{3,}")
_SPACES: Final = dict.fromkeys("\u00a0\u2007\u202f\u2002\u2003\u2009", " ") | {"\u2029": "\n\n"}
# Letters in the shape or the company that a typesetter gave them, Latin and Arabic.
_TYPESET: Final = re.compile("[\ufb00-\ufb06\ufb13-\ufb17\ufb50-\ufdfb\ufe70-\ufefc]")
# What nobody writes: more marks on one letter. Source: UAX #15, Stream-Safe Text Format.
_MAX_MARKS: Final = 30


def clean(text: str, *, keeps_layout: bool = False) -> str:
    """`text` without what cannot be seen; code keeps its blank lines. Cleaning twice changes nothing."""
    # Which characters there are is found out ten times faster than where; most texts have none of these.
    found = set(text)
    present = "".join(found)
    if _LINE_ENDS.search(present):
        text = _LINE_ENDS.sub("\n", text)
    for space in _SPACES.keys() & found:
        text = text.replace(space, _SPACES[space])
    if not found.isdisjoint("\x08\x1b\x9b"):
        text = _ESCAPES.sub("", text)
    if _INVISIBLE.search(present):
        text = _INVISIBLE.sub("", text)
    if not text.isascii():
        if any(map(unicodedata.combining, present)):
            text = _mark_run().sub(r"\1", text)
        if _TYPESET.search(present):
            text = _TYPESET.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
        text = unicodedata.normalize("NFC", text)
    # Nobody wrote what is encoded, and nobody should learn it.
    text = without_encoded("\n".join([line.rstrip(" \t") for line in text.split("\n")]))
    if not keeps_layout:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


@cache
def _mark_run() -> re.Pattern[str]:
    """Marks on one letter beyond the first few: to order them takes the square of their number."""
    marks = (chr(c) for c in range(0x300, 0x1F000) if unicodedata.combining(chr(c)))
    some = f"[{''.join(marks)}]"
    return re.compile(f"({some}{{{_MAX_MARKS}}}){some}+")


def one_line_title(text: str, max_chars: int = 200) -> str:
    """A title on one line, not too long."""
    return " ".join(clean(text[: 4 * max_chars]).split())[:max_chars]


def has_words(text: str) -> bool:
    """Whether there is anything to learn: at least two letters in a row, or a character of CJK."""
    return re.search(r"[^\W\d_]{2}|[\u3040-\u9fff\uac00-\ud7af]", text) is not None
