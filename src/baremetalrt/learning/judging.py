"""Whether an answer says what is expected: by the words that the question does not give away. Pure."""

import re
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+")
# Shorter words hold sentences together in most languages; numbers tell at any length.
_TELLING_CHARS: Final = 4
# Scripts without spaces: two characters stand for a word.
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_LEAST_SHARE: Final = 0.5
JUDGED_BY: Final = (
    "right: it says at least half of the telling words of the expected answer, those of four letters and "
    "more, and numbers, that are not in the question"
)


def is_right(answer: str, expected: str, question: str) -> bool:
    """Whether at least half of what is to be told is told, in whatever order, whatever else is said."""
    wanted = telling_words(expected) - telling_words(question)
    if not wanted:
        wanted = telling_words(expected)
    return bool(wanted) and len(wanted & telling_words(answer)) >= _LEAST_SHARE * len(wanted)


def telling_words(text: str) -> set[str]:
    """The words of a text that say something, in small letters; all of them where none is long enough."""
    words: set[str] = set()
    short: set[str] = set()
    for word in _WORD.findall(text.casefold()):
        if _UNSPACED.fullmatch(word):
            words |= {word[i : i + 2] for i in range(max(1, len(word) - 1))}
        elif len(word) >= _TELLING_CHARS or any(c.isdigit() for c in word):
            words.add(word)
        else:
            short.add(word)
    return words or short
