"""PDF, by PDFium: lines back to paragraphs, without what stands on every page."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import Document, Refusal
from baremetalrt.documents.readers.pdf_lines import HYPHEN_AT_END, Line, page_lines
from baremetalrt.documents.readers.source import Source, too_large

_NUMBER: Final = re.compile(r"\d{1,5}")
_ROMAN: Final = re.compile(r"\W*[ivxlc]+\W*")
_VOWEL: Final = re.compile("[aeiouy]|[^\x00-\x7f]", re.IGNORECASE)
_SPLIT_WORD: Final = re.compile(rf"([\w-]*\w){HYPHEN_AT_END}(\w[\w-]*)")
_WORD: Final = re.compile(r"\w+(?:-\w+)*")
_ENDS_SENTENCE: Final = (".", "!", "?", ":", ";", "…", "。", "！", "？", '."', ".”", "”")
_STARTS_ITEM: Final = re.compile(r"(?:[-•–*▪◦·]|\(?\w{1,3}[.)])\s")
_TRAILER_BYTES: Final = 1 << 20
_MAX_INDENT: Final = 40
_MARGIN_LINES: Final = 3
_MIN_PAGES: Final = 3
# A line that reaches this far goes on in the next one.
_FULL: Final = 0.75


def read_pdf(source: Source) -> Iterator[Document]:
    """One document."""
    from pypdfium2 import PdfDocument, PdfiumError

    if source.num_bytes() > source.limits.container_bytes:
        raise too_large("it is", source.limits.container_bytes)
    try:
        pdf = PdfDocument(source.file)
    except PdfiumError as error:
        if _may_be_encrypted(source):
            raise Refusal("document.encrypted", "it is encrypted") from error
        raise Refusal("document.damaged", "it is no PDF, or a damaged one") from error
    if len(pdf) > source.limits.pages:
        raise Refusal("document.too-large", f"it has more than {source.limits.pages} pages")
    pages, num_chars, num_bad = [], 0, 0
    for i in range(len(pdf)):
        try:
            page = pdf[i]
            words = page.get_textpage()
            lines = page_lines(words)
            words.close()
            page.close()
        except PdfiumError:
            num_bad += 1
            continue
        num_chars += sum(len(line.text) for line in lines)
        if num_chars > source.limits.text_chars:
            raise too_large("its text is", source.limits.text_chars)
        pages.append(lines)
    text = clean(pages_to_text(pages))
    if not has_words(text):
        if num_bad:
            raise Refusal("document.damaged", f"none of its {len(pdf)} pages can be read")
        raise Refusal("document.no-text", "its pages are pictures, or empty")
    title = one_line_title(pdf.get_metadata_dict().get("Title", ""))
    yield Document(text=text, origin=source.origin, kind="pdf", title=title)


def _may_be_encrypted(source: Source) -> bool:
    """Whether a trailer says so; PDFium says it of damaged files, too."""
    size = source.num_bytes()
    for start in (0, max(0, size - _TRAILER_BYTES)):
        source.file.seek(start)
        if b"/Encrypt" in source.file.read(_TRAILER_BYTES):
            return True
    return False


def pages_to_text(pages: Sequence[Sequence[Line]]) -> str:
    """Lines of pages to paragraphs; rows and code stay lines. Headers, footers, page numbers go."""
    texts = [[line.text for line in page] for page in pages]
    repeated = _repeated(texts)
    forms = Counter(line.form for page in pages for line in page)
    # What a typewriter wrote is all in letters of one width, and no code.
    is_typed = forms["code"] > forms["prose"] + forms["row"]
    paragraphs: list[list[str]] = []
    is_open = False
    before = "prose"
    for number, page in enumerate(pages):
        start, end = _body(texts[number], number, repeated)
        body = page[start:end]
        # The width of the type area: what most long lines reach.
        widths = sorted(len(line.text) for line in body if line.form == "prose" or is_typed)
        full_chars = _FULL * widths[(len(widths) * 9) // 10] if widths else 0
        margin = min((line.left for line in body if line.form == "code"), default=0)
        for one in body:
            line, form = one.text, "prose" if is_typed and one.form == "code" else one.form
            if form != "prose":
                line = " " * min(one.left - margin, _MAX_INDENT) + line if form == "code" else line
                if form == before:
                    paragraphs[-1] += ("\n", line)
                else:
                    paragraphs.append([line])
                is_open, before = False, form
                continue
            before = form
            if is_open and not _STARTS_ITEM.match(line):
                if _is_split(paragraphs[-1][-1], line):
                    paragraphs[-1][-1] = paragraphs[-1][-1][:-1] + HYPHEN_AT_END
                    paragraphs[-1].append(line)
                else:
                    paragraphs[-1] += (_glue(paragraphs[-1][-1], line), line)
            else:
                paragraphs.append([line])
            # A paragraph ends in a line that is not full and ends a sentence, or is very short.
            has_ended = line.endswith(_ENDS_SENTENCE) or len(line) < full_chars / 2
            is_open = len(line) >= full_chars or not has_ended
    return _with_hyphens("\n\n".join("".join(pieces) for pieces in paragraphs))


def _with_hyphens(text: str) -> str:
    """Words that were split at the end of a line, with a hyphen where they have one of their own.

    What the text says elsewhere decides, and then whether the halves are words of it.
    """
    if HYPHEN_AT_END not in text:
        return text
    words = Counter(word.casefold() for word in _WORD.findall(_SPLIT_WORD.sub(" ", text)))

    def joined(match: "re.Match[str]") -> str:
        first, second = match[1], match[2]
        whole, compound = f"{first}{second}", f"{first}-{second}"
        num_whole, num_compound = words[whole.casefold()], words[compound.casefold()]
        if num_whole or num_compound:
            return whole if num_whole >= num_compound else compound
        is_compound = (
            not (first[-1] + second[0]).isalpha()
            or second[0].isupper()
            or "-" in match[0]
            # no syllable is without a vowel, and words are split between syllables
            or not (_VOWEL.search(first) and _VOWEL.search(second))
            or (words[first.casefold()] and words[second.casefold()])
        )
        return compound if is_compound else whole

    return _SPLIT_WORD.sub(joined, text).replace(HYPHEN_AT_END, "-")


def _repeated(pages: Sequence[Sequence[str]]) -> set[str]:
    """What stands at the top or the bottom of most pages, or of every other one."""
    if len(pages) < _MIN_PAGES:
        return set()
    counts = Counter(
        shape
        for number, page in enumerate(pages)
        for shape in {
            shape
            for at, line in enumerate(page)
            if _in_margin(at, page)
            for shape in _shapes(line, number)
        }
    )
    least = max(_MIN_PAGES, round(0.4 * len(pages)))
    return {shape for shape, count in counts.items() if count >= least}


def _body(page: Sequence[str], number: int, repeated: set[str]) -> tuple[int, int]:
    """Where the lines begin and end between what is repeated at the top and at the bottom."""

    def is_repeated(at: int) -> bool:
        return _in_margin(at, page) and not repeated.isdisjoint(_shapes(page[at], number))

    start, end = 0, len(page)
    while start < end and is_repeated(start):
        start += 1
    while end > start and is_repeated(end - 1):
        end -= 1
    return start, end


def _in_margin(at: int, page: Sequence[str]) -> bool:
    return at < _MARGIN_LINES or at >= len(page) - _MARGIN_LINES


def _shapes(line: str, number: int) -> tuple[str, ...]:
    """The line, and the line with its first or its last number counted from the page it is on.

    So `page 3 of 9` is the same on all pages, and rows of figures are not.
    """
    line = line.casefold()
    if _ROMAN.fullmatch(line):
        return ("a page number in Roman figures",)
    found = list(_NUMBER.finditer(line))
    return (
        line,
        *(
            f"{line[: one.start()]}\0{int(one[0]) - number}\0{line[one.end() :]}"
            for one in (found[:1] + found[-1:])
        ),
    )


def _is_split(before: str, line: str) -> bool:
    """Whether a word goes on in the next line, where PDFium has not told so."""
    return before.endswith(("-", HYPHEN_AT_END)) and before[-2:-1].isalpha() and line[:1].islower()


def _glue(before: str, line: str) -> str:
    """What stands between two lines of a paragraph."""
    return "" if _is_cjk(before[-1:]) and _is_cjk(line[:1]) else " "


def _is_cjk(char: str) -> bool:
    return "\u3000" <= char <= "\u9fff"
