"""Answers that say the same over and over, as small models do until something stops them. Pure."""

from collections.abc import Sequence
from typing import Final

import numpy as np

# A span of so many tokens, at most, is looked for.
_LONGEST_SPAN: Final = 96
# It is a loop after so many repetitions, and so many tokens: tables and lists repeat themselves, too.
_REPETITIONS: Final = 8
_LEAST_TOKENS: Final = 192
_WINDOW: Final = _LONGEST_SPAN * (_REPETITIONS + 1)
# How often it is looked for, in tokens.
_EVERY: Final = 32


class LoopFinder:
    """Is told an answer token by token."""

    def __init__(self) -> None:
        self._tokens: list[int] = []

    def add(self, token: int) -> bool:
        """Whether the answer has become a loop."""
        self._tokens.append(token)
        if len(self._tokens) % _EVERY:
            return False
        del self._tokens[:-_WINDOW]
        return loops(self._tokens)


def loops(tokens: Sequence[int]) -> bool:
    """Whether a text ends with the same span, over and over."""
    text = np.asarray(tokens[-_WINDOW:], np.int64)
    for span in range(1, _LONGEST_SPAN + 1):
        length = max(_LEAST_TOKENS, span * _REPETITIONS)
        if length + span > len(text):
            break
        if np.array_equal(text[-length:], text[-length - span : -span]):
            return True
    return False
