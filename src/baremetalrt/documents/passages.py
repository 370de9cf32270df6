"""Long texts in passages that end where the text itself pauses. Joined, they are the text again."""

import re
from collections.abc import Callable, Iterator
from typing import Final

Measure = Callable[[str], int]
# A sentence ends at a mark with a space behind; Chinese and Japanese ones at the mark.
_WIDE_MARKS: Final = "\u3002\uff01\uff1f"
_SENTENCE_END: Final = re.compile(rf"(?<=[.!?])\s+(?=[^\W_a-z]|[\"“„«(])|(?<=[{_WIDE_MARKS}])")
_MARKS: Final = (".", "!", "?", *_WIDE_MARKS)
_SENTENCE_CHARS: Final = (40, 400)
# Where to cut, best first: paragraphs, lines, sentences, words.
_BORDERS: Final = (
    re.compile(r"\n[ \t]*(?:\n[ \t]*)+"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])"),
    re.compile(r"\s+"),
)


def split_passages(text: str, max_size: int, *, measure: Measure = len) -> list[str]:
    """Passages of at most `max_size`, as large as borders allow.

    `measure` says how large a text is: characters by default; a tokenizer may count tokens, then the sum
    over pieces is what is kept below `max_size`. A single character is never cut, however large.
    """
    if max_size < 1:
        raise ValueError("max_size must be positive")
    passages: list[str] = []
    held: list[str] = []
    held_size = 0
    for piece in _pieces(text, max_size, measure, 0):
        size = measure(piece)
        if held and held_size + size > max_size:
            passages.append("".join(held))
            held, held_size = [], 0
        held.append(piece)
        held_size += size
    if held:
        passages.append("".join(held))
    return passages


def split_sentences(passage: str) -> list[str]:
    """The sentences of a passage that are neither fragments nor too long to stand alone."""
    parts = (part.strip() for part in _SENTENCE_END.split(" ".join(passage.split())))
    low, high = _SENTENCE_CHARS
    whole = (
        part for part in parts if low <= len(part) <= high and part.rstrip('"”»)').endswith(_MARKS)
    )
    return list(dict.fromkeys(whole))


def cut_near(text: str, low: int, target: int, high: int) -> int:
    """Where to cut `text` in two: at the best kind of border that there is from `low` to `high`, and of
    those at the one nearest to `target`; at `target` where there is none."""
    for border in _BORDERS:
        ends = [low + match.end() for match in border.finditer(text[low : high + 1])]
        if ends:
            return min(ends, key=lambda end: abs(end - target))
    return target


def _pieces(text: str, max_size: int, measure: Measure, level: int) -> Iterator[str]:
    if not text:
        return
    if measure(text) <= max_size or len(text) == 1:
        yield text
    elif level == len(_BORDERS):
        middle = len(text) // 2
        yield from _pieces(text[:middle], max_size, measure, level)
        yield from _pieces(text[middle:], max_size, measure, level)
    else:
        for part in _split_after(text, _BORDERS[level]):
            yield from _pieces(part, max_size, measure, level + 1)


def _split_after(text: str, border: re.Pattern[str]) -> Iterator[str]:
    start = 0
    for match in border.finditer(text):
        if match.end() > start:
            yield text[start : match.end()]
            start = match.end()
    yield text[start:]
