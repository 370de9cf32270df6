"""What a machine should host that joins without being told, and when it should move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.spans import BlockSpan

# Moving costs a fetch and everybody's caches: it must help by so much.
_WORTH_MOVING: Final = 0.8


@dataclass(frozen=True)
class HostedBlocks:
    """A span that somebody hosts, and how many tokens a second each of its blocks does."""

    blocks: BlockSpan
    tokens_per_s: float


@dataclass(frozen=True, order=True)
class Harm:
    """How badly a swarm stands: blocks that nobody has, then seconds per token under full load."""

    num_missing: int
    token_s: float


def harm(num_blocks: int, hosted: Sequence[HostedBlocks]) -> Harm:
    """Of a swarm that shares its load evenly among those who have a block."""
    return _harm_of(_strengths(num_blocks, hosted))


def weakest_model(models: Mapping[str, tuple[int, Sequence[HostedBlocks]]]) -> str | None:
    """Of models, by their number of blocks and who hosts them, the one that stands worst."""
    # By name where two stand alike: everybody chooses the same.
    ranked = sorted(models, key=lambda name: (harm(*models[name]), name))
    return ranked[-1] if ranked else None


def choose_span(
    num_blocks: int, hosted: Sequence[HostedBlocks], *, max_blocks: int, tokens_per_s: float
) -> BlockSpan:
    """The span of at most `max_blocks` whose loss would hurt most, had this machine always hosted it.

    That is the one that helps most now: missing blocks first, then the weakest ones; the first of
    several that help the same.
    """
    length = min(max_blocks, num_blocks)
    strengths = _strengths(num_blocks, hosted)
    spans = [BlockSpan(i, i + length) for i in range(num_blocks - length + 1)]
    return min(spans, key=lambda span: _harm_of(_with(strengths, span, tokens_per_s)))


def should_move(
    num_blocks: int,
    others: Sequence[HostedBlocks],
    mine: HostedBlocks,
    *,
    max_blocks: int,
) -> BlockSpan | None:
    """Where to go, if another span needs this machine much more than the one that it hosts."""
    strengths = _strengths(num_blocks, others)
    target = choose_span(num_blocks, others, max_blocks=max_blocks, tokens_per_s=mine.tokens_per_s)
    now = _harm_of(_with(strengths, mine.blocks, mine.tokens_per_s))
    then = _harm_of(_with(strengths, target, mine.tokens_per_s))
    helps = then.num_missing < now.num_missing or (
        then.num_missing == now.num_missing and then.token_s < _WORTH_MOVING * now.token_s
    )
    return target if helps else None


def _strengths(num_blocks: int, hosted: Sequence[HostedBlocks]) -> list[float]:
    strengths = [0.0] * num_blocks
    # Sorted: float sums depend on order, and a flip would move blocks needlessly.
    for one in sorted(hosted, key=lambda h: (h.blocks.start, h.blocks.end, h.tokens_per_s)):
        for i in range(one.blocks.start, min(one.blocks.end, num_blocks)):
            strengths[i] += one.tokens_per_s
    return strengths


def _with(strengths: Sequence[float], span: BlockSpan, tokens_per_s: float) -> list[float]:
    return [s + tokens_per_s * (span.start <= i < span.end) for i, s in enumerate(strengths)]


def _harm_of(strengths: Sequence[float]) -> Harm:
    return Harm(sum(s <= 0 for s in strengths), sum(1 / s for s in strengths if s > 0))
