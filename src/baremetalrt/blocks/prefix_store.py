"""Beginnings of texts whose keys and values need not be computed again: what a store of them promises.

There is one in memory, the table of a cache's sequences (`sequence_table.py`), and one behind it on disk
(`prefix_folder.py`).
"""

from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan

# Adapters that a text is computed with: digest and weight of each, in order.
AdapterKey = tuple[tuple[str, float], ...]
Stored = TypeVar("Stored")
StoredOut = TypeVar("StoredOut", covariant=True)
Text = TypeVar("Text", contravariant=True)


@dataclass(frozen=True)
class PrefixKind:
    """What two texts have in common, besides tokens, where one can go on from a beginning of the other.

    `part`: the blocks of the span that they go through, None for all.
    """

    part: BlockSpan | None = None
    adapters: AdapterKey = ()
    owner: Owner = THIS_USER


@dataclass(frozen=True)
class Match(Generic[StoredOut]):
    """How many tokens of a text are stored, and where; 0 and None if none are."""

    length: int
    stored: StoredOut | None


class PrefixStore(Protocol[Stored, Text]):
    """Texts of one span of one model. Sizes are in the store's own unit: cells, or bytes."""

    def match(self, kind: PrefixKind, tokens: Sequence[int]) -> Match[Stored]:
        """The longest beginning of `tokens` that may be gone on from. Nothing changes by asking."""

    def insert(self, text: Text) -> None:
        """Keeps a text for others that begin alike."""

    def lock(self, stored: Stored) -> AbstractContextManager[object]:
        """While it is held, what is stored is neither evicted nor changed."""

    def evict(self, size: int) -> int:
        """Forgets what was not used for longest, until so much is free; says how much is."""

    def check(self) -> None:
        """Raises `IntegrityError` if the store is not what it says it is."""


def common_prefix(stored: "array[int]", wanted: NDArray[np.int32]) -> int:
    """How many tokens two texts share from their beginning."""
    n = min(len(stored), len(wanted))
    if n == 0:
        return 0
    differs = np.frombuffer(stored, np.int32)[:n] != wanted[:n]
    first = int(differs.argmax())
    return first if differs[first] else n
