"""Which blocks to keep when the disk budget is spent. Pure.

What is used often, and what few others in the swarm have, stays; a block nobody here used for long and
that many others seed goes first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# After so long, a use counts half.
HALF_LIFE_S: Final = 30 * 24 * 3600.0
_UNUSED: Final = 0.05


@dataclass(frozen=True)
class CachedBlock:
    """One block of one torrent on disk.

    `uses` is a decayed count (see `decayed`). `num_sources` is how many peers had it when last seen;
    None when nobody was seen. `num_bytes` is what its eviction frees.
    """

    torrent: str
    block: int
    num_bytes: int
    uses: float
    num_sources: int | None

    @property
    def value(self) -> float:
        """What keeping it is worth: uses, times how hard it would be to get again."""
        # Nobody was seen: it may be the last copy, or everybody was just away. Halfway between.
        sources = 1 if self.num_sources is None else self.num_sources
        return (self.uses + _UNUSED) / (1 + sources)


def decayed(uses: float, age_s: float) -> float:
    """A count of uses as it stands `age_s` seconds after the last one."""
    return float(uses * 0.5 ** (max(0.0, age_s) / HALF_LIFE_S))


def choose_evictions(
    blocks: Iterable[CachedBlock], *, used_bytes: int, budget_bytes: int
) -> list[CachedBlock]:
    """The blocks to evict, in order, until what is used fits the budget; the least worth first.

    Of equal ones, the last blocks of a model go first: a run needs the first ones soonest.
    """
    chosen = []
    order = sorted(blocks, key=lambda b: (b.value, b.torrent, -b.block))
    for block in order:
        if used_bytes <= budget_bytes:
            break
        if block.num_bytes:
            chosen.append(block)
            used_bytes -= block.num_bytes
    return chosen
