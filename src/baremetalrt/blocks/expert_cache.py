"""Which experts are in memory, and which makes way for another. Pure.

Routers have favourites: an expert that was asked for often stays, and one that was asked for long ago
makes way, however often it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.units import format_bytes

# Block and expert.
Key = tuple[int, int]
# A use counts half as much after so many steps of its block.
_HALF_LIFE: Final = 256.0
# Where the weight of a use would grow beyond any number, all are scaled back.
_LARGEST: Final = 1e200


@dataclass(frozen=True)
class ExpertKind:
    """Experts of one shape and type: of how many blocks, how many in each, and the bytes of one."""

    num_blocks: int
    num_experts: int
    expert_bytes: int

    @property
    def block_bytes(self) -> int:
        return self.num_experts * self.expert_bytes


def share_slots(kinds: Sequence[ExpertKind], budget_bytes: int) -> list[int]:
    """How many slots each kind gets: those of one block at least, and an equal share of what is left.

    A prompt may choose all experts of a block at once.

    Raises:
        CapacityError: not even one block of each kind fits.
    """
    least = sum(kind.block_bytes for kind in kinds)
    if least > budget_bytes:
        raise CapacityError(
            f"the experts of one block take {format_bytes(least)}, {format_bytes(budget_bytes)} are "
            "there for them",
            code="memory.block",
            needed=least,
            available=budget_bytes,
            hint="give it more memory, or run its blocks on several machines",
        )
    beyond = sum(kind.block_bytes * (kind.num_blocks - 1) for kind in kinds)
    share = min(1.0, (budget_bytes - least) / beyond) if beyond else 1.0
    return [k.num_experts + int(share * k.num_experts * (k.num_blocks - 1)) for k in kinds]


class ExpertCache:
    """Keys in `num_slots` slots; those of one request are never in each other's way."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.hits = self.misses = 0
        self._slot_of: dict[Key, int] = {}
        self._key_in: list[Key | None] = [None] * num_slots
        self._scores = np.zeros(num_slots)
        # What was asked for and is not here any more keeps its score for a while.
        self._gone: dict[Key, float] = {}
        self._weight = 1.0

    def request(self, keys: Sequence[Key]) -> tuple[list[int], list[tuple[Key, int]]]:
        """Slots of these keys, all different, and those keys that have to be read into theirs first.

        Raises:
            ValueError: they are more than there are slots.
        """
        if len(keys) > self.num_slots:
            raise ValueError(f"{len(keys)} experts for {self.num_slots} slots")
        self._weight *= 2 ** (1 / _HALF_LIFE)
        if self._weight > _LARGEST:
            self._scale_back()
        taken = np.zeros(self.num_slots, bool)
        for key in keys:
            if key in self._slot_of:
                taken[self._slot_of[key]] = True
        missing = []
        for key in keys:
            if key in self._slot_of:
                self.hits += 1
            else:
                self.misses += 1
                missing.append((key, self._take(key, taken)))
            self._scores[self._slot_of[key]] += self._weight
        return [self._slot_of[key] for key in keys], missing

    def forget(self, key: Key) -> None:
        """The key could not be read."""
        slot = self._slot_of.pop(key)
        self._key_in[slot], self._scores[slot] = None, 0.0

    def _take(self, key: Key, taken: NDArray[np.bool_]) -> int:
        slot = int(np.where(taken, np.inf, self._scores).argmin())
        before = self._key_in[slot]
        if before is not None:
            del self._slot_of[before]
            if len(self._gone) > 8 * self.num_slots:
                self._gone.clear()
            self._gone[before] = float(self._scores[slot])
        self._slot_of[key], self._key_in[slot] = slot, key
        self._scores[slot] = self._gone.pop(key, 0.0)
        taken[slot] = True
        return slot

    def _scale_back(self) -> None:
        self._scores /= self._weight
        self._gone = {key: score / self._weight for key, score in self._gone.items()}
        self._weight = 1.0
