"""Which span a machine hosts, and when it moves to another one. Pure: time and chance are arguments."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes
from baremetalrt.placement.profiles import Demand, Sizes
from baremetalrt.placement.span_choice import HostedBlocks, choose_span, should_move

# Looks come at this share of the interval, more or less: two machines do not look at the same time.
_SPREAD: Final = 0.25
# Two machines that see the same gap do not both go there: each looks again after a while of its own.
_SECOND_LOOK_SHARE: Final = 0.25


def first_span(
    num_blocks: int, max_blocks: int, others: Sequence[HostedBlocks], *, room_bytes: int
) -> BlockSpan:
    """The whole model, where it fits, or else the span that the swarm needs most.

    Raises:
        CapacityError: there is no room for a block.
    """
    if max_blocks >= num_blocks:
        return BlockSpan(0, num_blocks)
    if max_blocks == 0:
        raise CapacityError(
            f"there is no room for a block: {format_bytes(room_bytes)} are left",
            code="share.no-room",
            hint="give more with --share-memory",
        )
    # How fast this machine is matters little for where it is needed.
    typical = statistics.median([one.tokens_per_s for one in others] or [1.0])
    return choose_span(num_blocks, others, max_blocks=max_blocks, tokens_per_s=typical)


def why_not_all(
    sizes: Sizes, demand: Demand, num_blocks: int, room_bytes: int, *, is_given: bool
) -> str | None:
    """Why only some blocks fit, and what would let more in; None where all do. `is_given`: room."""
    max_blocks = sizes.max_blocks(room_bytes)
    if max_blocks >= num_blocks:
        return None
    first = BlockSpan(0, 1)
    cells_bytes = sizes.cells_bytes
    weights_bytes = (sizes.held[num_blocks] - num_blocks * cells_bytes) // num_blocks
    ends_bytes = sizes.held_bytes(first) - (sizes.held[1] - sizes.held[0])
    texts = f"{demand.num_sessions} texts of {demand.context} tokens"
    less = "a smaller --context or --parallel makes room for more blocks" + (
        ", and so does a larger --share-memory" if is_given else ""
    )
    return (
        f"{format_bytes(room_bytes)} hold {max_blocks} of {num_blocks} blocks: each takes "
        f"{format_bytes(weights_bytes)} of weights and {format_bytes(cells_bytes)} of keys and values "
        f"for {texts}, and the first and last ones {format_bytes(ends_bytes)} more; {less}"
    )


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a machine knows of a model when it looks: what it hosts itself, what others do.

    `max_blocks` is what it has room for; `num_texts`, how many texts are in its span now.
    """

    num_blocks: int
    max_blocks: int
    mine: HostedBlocks
    others: Sequence[HostedBlocks]
    num_texts: int


class MoveChoice:
    """Decides when one hosted span is given up for another: after two looks that agree.

    `look_at_s` is when to look next, by the clock that is passed in.
    """

    def __init__(self, interval_s: float, now_s: float, chance: Random) -> None:
        self._interval_s = interval_s
        self._candidate: BlockSpan | None = None
        self._wait(now_s, chance)

    def look(self, now_s: float, situation: Situation, chance: Random) -> BlockSpan | None:
        """Where to move now, or None to stay."""
        before, self._candidate = self._candidate, None
        target = _better_span(situation)
        if target is not None and before is None:
            self._candidate = target
            self.look_at_s = now_s + self._interval_s * chance.uniform(0, _SECOND_LOOK_SHARE)
            return None
        self._wait(now_s, chance)
        return target if target == before and not situation.num_texts else None

    def _wait(self, now_s: float, chance: Random) -> None:
        self.look_at_s = now_s + self._interval_s * chance.uniform(1 - _SPREAD, 1 + _SPREAD)


def _better_span(s: Situation) -> BlockSpan | None:
    if s.max_blocks >= s.num_blocks:
        return None
    return should_move(s.num_blocks, s.others, s.mine, max_blocks=s.max_blocks)
