"""Which pieces to ask for now, so that bytes arrive in the order in which they are computed with. Pure.

libtorrent asks for pieces of a higher priority first. The next few megabytes get the highest one, those
after them the one below, and so on: a window that moves along. (Its sequential mode would follow the
order of the file, which is often not the order of execution, and it loses its place when pieces that were
withheld are released.) Pieces that somebody waits for this moment get deadlines besides, a few at a
time: deadlines on everything would hold no order at all.

The first pieces are few, until one has passed its hash or failed it: libtorrent mixes the blocks of all
peers in its first second, takes trust from each of them for every piece that fails, and bans at the
fourth. One that lies would have the honest ones banned with it before the first hash is checked.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from baremetalrt.core.units import MIB

UNWANTED: Final = 0
_LATER: Final = 1
_NOW: Final = 7
_ANY: Final = 4
_STEP_BYTES: Final = 4 * MIB
_MAX_DEADLINES: Final = 16
# Between the deadlines of two pieces: they are wanted one after another, all of them now.
_DEADLINE_STEP_MS: Final = 20


@dataclass(frozen=True)
class FetchOrder:
    """A priority for every piece, and deadlines in milliseconds from now for the awaited ones."""

    priorities: tuple[int, ...]
    deadlines_ms: dict[int, int] = field(default_factory=dict)


def step_pieces(piece_bytes: int) -> int:
    """How many pieces share a priority: the order among them is left to libtorrent."""
    return max(1, _STEP_BYTES // piece_bytes)


def order_fetch(
    *,
    num_pieces: int,
    wanted: Set[int],
    have: Set[int],
    units: Sequence[Iterable[int]],
    awaited: Sequence[Iterable[int]],
    step: int,
    probes: int | None = None,
) -> FetchOrder:
    """What to tell libtorrent.

    `units` are pieces in order of execution: header, embedding, blocks, head. Wanted pieces of no unit
    come last; without units there is no order, and the rarest come first. `awaited` are pieces that
    somebody waits for, in the order of asking: they come before all others, `wanted` or not. `step`
    pieces share a priority. With `probes`, only so many of the first missing ones are asked for.
    """
    priorities = [UNWANTED] * num_pieces
    for piece in wanted:
        priorities[piece] = _ANY
    urgent = dict.fromkeys(p for group in awaited for p in sorted(set(group) - have))
    if units or urgent:
        rank: dict[int, int] = {}
        for number, unit in enumerate(units):
            for piece in unit:
                rank.setdefault(piece, number)
        for position, piece in enumerate(urgent):
            priorities[piece] = max(_LATER, _NOW - position // step)
        first = None
        rest = sorted(wanted - urgent.keys(), key=lambda p: (rank.get(p, len(units)), p))
        for position, piece in enumerate(rest):
            if piece not in have:
                # Counted from the first one missing, so that one that is late holds back what follows.
                first = position if first is None else first
                distance = -(-len(urgent) // step) * step + position - first
                priorities[piece] = max(_LATER, _NOW - distance // step)
    if probes is not None:
        missing = (p for p, priority in enumerate(priorities) if priority and p not in have)
        first_ones = sorted(missing, key=lambda p: -priorities[p])[:probes]
        kept = {*have, *first_ones}
        priorities = [x if p in kept else UNWANTED for p, x in enumerate(priorities)]
        return FetchOrder(tuple(priorities))
    deadlines = {
        piece: _DEADLINE_STEP_MS * (i + 1) for i, piece in enumerate(urgent) if i < _MAX_DEADLINES
    }
    return FetchOrder(tuple(priorities), deadlines)
