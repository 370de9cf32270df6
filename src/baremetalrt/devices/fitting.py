"""How the memory there is goes to the weights of a model, its texts, and what makes it faster. Pure.

Weights come first: a block that is not in memory costs a read from disk in every step.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.units import MIB, format_bytes, round_up

# Of what there is, for keys and values; or of what weights leave, where that is more.
_CACHE_SHARE: Final = 0.25
_LEFT_SHARE: Final = 0.5
# Of what there is, for copies of weights in the fastest order: the mapped pages are let go then.
_COPY_SHARE: Final = 0.5
# What a text may be long where weights do not all fit: a question, some pages, an answer.
_STREAMED_CONTEXT: Final = 4096
# Of what there is, for what a step computes in, and again for the rows of a prompt, where weights do not
# all fit.
_STEP_SHARE: Final = 0.1
MAX_STEP_TOKENS: Final = 512
_MIN_STEP_TOKENS: Final = 32
# Beyond that, reading the weights is a small part of computing with them.
MAX_PROMPT_TOKENS: Final = 4096
# Where every byte has its use, some are left for what nobody counts: sockets, a line of text, a thread.
_MARGIN_SHARE: Final = 0.04
_MIN_MARGIN_BYTES: Final = 8 * MIB


class CacheCost(Protocol):
    """What the cells of a cache take, each of which has room for one token."""

    def num_bytes(self, num_cells: int) -> int: ...

    def max_cells(self, room_bytes: int) -> int:
        """How many cells there is room for."""


@dataclass(frozen=True)
class FlatCost:
    """Every cell takes the same."""

    token_bytes: int

    def num_bytes(self, num_cells: int) -> int:
        return self.token_bytes * num_cells

    def max_cells(self, room_bytes: int) -> int:
        return room_bytes // self.token_bytes


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a span takes: `weight_bytes` that every step reads, and a `cache` for keys and values.

    A step computes in `row_bytes` for each of its tokens; a prompt that goes through the weights part by
    part keeps `kept_row_bytes` for each of its. `context` is what was asked for, if anything,
    of `max_context` tokens that the model knows, for each of `num_texts` at once, in multiples of
    `quantum`.
    """

    weight_bytes: int
    cache: CacheCost
    row_bytes: int
    kept_row_bytes: int
    context: int | None
    max_context: int
    num_texts: int
    quantum: int


@dataclass(frozen=True)
class Fit:
    """Tokens of the longest text, of a step, and of as much of a prompt as is taken at once.

    Cells are for all texts. Weights without a budget are all in memory.
    """

    context: int
    step_tokens: int
    prompt_tokens: int
    num_cells: int
    weight_budget_bytes: int | None
    copy_budget_bytes: int


def fit(needs: Needs, room_bytes: int, *, can_stream: bool, must_hold: bool = False) -> Fit:
    """Shares `room_bytes` among the needs of one span.

    What the weights lack, `can_stream` from disk; with `must_hold`, nothing may be lacking, and otherwise
    the system reads mapped files page by page.

    Raises:
        CapacityError: the context that was asked for has no room, or what must be held.
    """
    quantum, cache = needs.quantum, needs.cache
    left = room_bytes - MAX_STEP_TOKENS * needs.row_bytes - needs.weight_bytes
    share = int(room_bytes * _CACHE_SHARE)
    usable = needs.context or min(needs.max_context, _STREAMED_CONTEXT)
    streams = can_stream and left < cache.num_bytes(round_up(usable, quantum))
    if must_hold and left < cache.num_bytes(quantum):
        needed = room_bytes - left + cache.num_bytes(quantum)
        raise CapacityError(
            f"{format_bytes(needed)} are needed, {format_bytes(room_bytes)} are free",
            code="device.memory",
            needed=needed,
            available=room_bytes,
            hint="run fewer blocks there",
        )
    if must_hold or (can_stream and not streams):
        share = min(max(share, int(left * _LEFT_SHARE)), left)
    most = max(quantum, cache.max_cells(share) // quantum * quantum)
    if needs.context is None:
        context = min(usable if streams else needs.max_context, most)
    else:
        context = needs.context
        _require_room(context, cache.num_bytes(round_up(context, quantum)), room_bytes, most)
    one = round_up(context, quantum)
    num_cells = max(one, min(one * needs.num_texts, most))
    if not streams:
        copies = int(room_bytes * _COPY_SHARE)
        return Fit(context, MAX_STEP_TOKENS, MAX_STEP_TOKENS, num_cells, None, copies)
    step = MAX_STEP_TOKENS
    while step > _MIN_STEP_TOKENS and step * needs.row_bytes > room_bytes * _STEP_SHARE:
        step //= 2
    margin = max(_MIN_MARGIN_BYTES, int(room_bytes * _MARGIN_SHARE))
    # Each part of the weights is read once for so many tokens.
    kept = int(room_bytes * _STEP_SHARE) // needs.kept_row_bytes // step * step
    prompt = max(step, min(kept, MAX_PROMPT_TOKENS, round_up(context, step)))
    rows = step * needs.row_bytes + prompt * needs.kept_row_bytes
    weights = room_bytes - rows - cache.num_bytes(num_cells) - margin
    return Fit(context, step, prompt, num_cells, max(0, weights), 0)


def _require_room(context: int, needed_bytes: int, room_bytes: int, most: int) -> None:
    if needed_bytes > room_bytes:
        raise CapacityError(
            f"a context of {context} tokens needs {format_bytes(needed_bytes)}, "
            f"{format_bytes(room_bytes)} are free",
            code="context.memory",
            needed=needed_bytes,
            available=room_bytes,
            hint=f"use --context {most} or less",
        )
