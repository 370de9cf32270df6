"""The lines of a page of a PDF, and which of them are rows of a table, code, or entries of contents."""

import functools
import itertools
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Final, Literal

Form = Literal["prose", "row", "code"]

# What PDFium puts where a line ends in a hyphen, and what it leaves standing.
HYPHEN_AT_END: Final = "\ufffe"
_HYPHENATED: Final = re.compile("[\ufffe\x02]\r?\n?")
_HYPHENS: Final = str.maketrans("\u2010\u2011", "--")
_LINE: Final = re.compile(r"[^\r\n]+")
_ARABIC: Final = re.compile("[\u0600-\u06ff]")
# Arabic presentation forms: ligatures of words and of two or three letters, then those of lam and alef.
_FORMS_A: Final = range(0xFB50, 0xFDFC)
_FORMS_B: Final = range(0xFE70, 0xFEFD)
_SPACES: Final = re.compile(r" +")
# `Harbours . . . . 12`
_LEADER: Final = re.compile(r"(?:[.·…‥][ \t]?){5,}")
_PAGE_NUMBER: Final = re.compile(r"\w{0,6}")
_FIXED_NAMES: Final = re.compile(
    r"courier|mono|consol|menlo|typewriter|fixed|cmtt|lmtt|[a-z]code\b", re.IGNORECASE
)
# Cells are further apart than words, in heights of a letter, and not only in this line.
_CELL_GAP: Final = 1.5
_CELL_GAP_FACTOR: Final = 3.0


@dataclass(frozen=True)
class Line:
    """One line. `left` is where it begins, in columns of its own letters; only of code is it used."""

    text: str
    form: Form = "prose"
    left: int = 0


def page_lines(page: Any) -> list[Line]:
    """The lines of a text page of pypdfium2, in its order."""
    text = page.get_text_range()
    # Beyond the first plane, positions in the text are not those of the page.
    if len(text) == page.count_chars():
        layout = _Layout(page)
        found = [layout.line(match) for match in _LINE.finditer(text)]
    else:
        found = [Line(_tidy(match[0])) for match in _LINE.finditer(_tidy(text))]
    return [line for line in found if line.text]


class _Layout:
    """Where the characters of a page are."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def line(self, match: "re.Match[str]") -> Line:
        """The line of which `match` is the text."""
        text, start = match[0], match.start()
        if _ARABIC.search(text):
            text = self._with_ligatures(text, start)
        said = _tidy(text)
        if not said:
            return Line("")
        leader = _LEADER.search(said)
        if leader and leader.start() and _PAGE_NUMBER.fullmatch(said[leader.end() :].strip()):
            return Line(f"{said[: leader.start()].strip()}\t{said[leader.end() :].strip()}", "row")
        first = start + len(text) - len(text.lstrip())
        last = start + len(text.rstrip()) - 1
        if all(self._is_fixed(at) for at in (first, (first + last) // 2, last)):
            left, _, right, _ = self._box(first)
            return Line(said, "code", round(left / (right - left)) if right > left else 0)
        cells = self._cells(text, start)
        return Line("\t".join(cells), "row") if len(cells) > 1 else Line(said)

    def _with_ligatures(self, text: str, start: int) -> str:
        """PDFium turns lines of Arabic around letter by letter, also those that are one drawing."""
        boxes = [self._box(start + at) for at in range(len(text))]
        pieces, at = [], 0
        for _, run in itertools.groupby(boxes):
            piece = text[at : at + len(list(run))]
            at += len(piece)
            turned = piece[::-1]
            is_turned = len(piece) > 1 and turned in _ligatures() and piece not in _ligatures()
            pieces.append(turned if is_turned else piece)
        return "".join(pieces)

    def _cells(self, text: str, start: int) -> list[str]:
        if self._page.count_rects(start, len(text)) < 2:
            return [_tidy(text)]  # drawn at once: no table does that, and most prose does
        gaps: list[tuple[float, re.Match[str]]] = []
        height = 0.0
        for space in _SPACES.finditer(text.rstrip()):
            if space.start():
                _, bottom, before, top = self._box(start + space.start() - 1)
                height = max(height, top - bottom)
                gaps.append((self._box(start + space.end())[0] - before, space))
        usual = sorted(gap for gap, _ in gaps)[len(gaps) // 4] if len(gaps) > 3 else 0.0
        least = max(_CELL_GAP * height, _CELL_GAP_FACTOR * usual)
        cells, end = [], 0
        for gap, space in gaps:
            if gap > least:
                cells.append(_tidy(text[end : space.start()]))
                end = space.end()
        return [*cells, _tidy(text[end:])]

    def _box(self, at: int) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of a character with the room around it, on the page: a size of
        letters says nothing where the page is scaled."""
        from pypdfium2 import PdfiumError

        try:
            left, bottom, right, top = self._page.get_charbox(at, loose=True)
        except PdfiumError:  # it is drawn nowhere
            return 0.0, 0.0, 0.0, 0.0
        return left, bottom, right, top

    def _is_fixed(self, at: int) -> bool:
        drawn = self._page.get_textobj(at)
        return drawn is not None and bool(_FIXED_NAMES.search(drawn.get_font().get_base_name()))


@functools.cache
def _ligatures() -> frozenset[str]:
    """The letters of what Arabic joins to one drawing."""
    whole = (unicodedata.normalize("NFKC", chr(code)) for code in (*_FORMS_A, *_FORMS_B))
    return frozenset(letters for letters in whole if len(letters) > 1 and " " not in letters)


def _tidy(text: str) -> str:
    return _HYPHENATED.sub(HYPHEN_AT_END, text).translate(_HYPHENS).strip()
