"""Bounds of lists of models that members pass on to each other."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from baremetalrt.core.units import MIB

# So many are asked for at once, and no more bytes come of it than a call without streams takes.
MAX_LISTS: Final = 64
MAX_LISTS_BYTES: Final = 3 * MIB

# Signed lists with greater numbers than those known, by the keys of their publishers.
NewerLists = Callable[[Mapping[str, int]], Iterable[bytes]]


def within(lists: Iterable[bytes], max_bytes: int) -> list[bytes]:
    """As many of the lists as fit."""
    kept, left = [], max_bytes
    for raw in lists:
        if len(raw) <= left:
            kept.append(raw)
            left -= len(raw)
    return kept
