"""Rank, length, batch and what is kept in memory, from the model, the data and the budget. Pure."""

import math
from dataclasses import dataclass, replace
from typing import Final

from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.units import MIB, format_bytes
from baremetalrt.tuning.config import TuneConfig

_FLOAT_BYTES: Final = 4
# Weights, gradient and two moments of each number of an adapter.
_ADAPTER_COPIES: Final = 4
# Floats of the head that exist at once.
_HEAD_TILE_BYTES: Final = 64 * MIB
# What the C allocator does not give back, as measured.
_HEAP_BYTES: Final = 160 * MIB
# Heaps have holes: what was measured was up to a tenth above what was estimated.
_SLACK: Final = 1.1
_LENGTHS: Final = (2048, 1024, 512, 256, 128, 64)
_DEFAULT_LENGTH: Final = 512
# Few steps teach little, many small ones are noisy: aim for so many within these bounds.
_WANTED_STEPS: Final = 150
_STEP_TOKENS: Final = (512, 8192)
# More rows at once spread the cost of dequantizing; beyond this there is little left to spread.
_MICRO_TOKENS: Final = 2048
_LOGITS_BYTES: Final = (256 * MIB, 64 * MIB)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The sizes that memory depends on, in elements unless it says bytes.

    `runtime_bytes` are what Python, PyTorch and transformers take before anything is computed: 410 MiB
    for a PyTorch that knows the processor alone, 760 MiB for one that was built for graphics cards.
    """

    num_blocks: int
    width: int
    q_width: int
    kv_width: int
    feed_forward_width: int
    vocabulary_size: int
    block_elements: int
    largest_matrix: int
    file_bytes: int
    runtime_bytes: int
    adapter_elements_per_rank: int
    # Heads whose attention is written out, row by row and column by column; zero where it is not.
    explicit_heads: int = 0


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run does. `micro_rows` go through the model at once, `step_rows` make one step."""

    rank: int
    length: int
    micro_rows: int
    step_rows: int
    checkpointing: bool
    keep_block: bool
    logits_bytes: int
    estimated_bytes: int
    budget_bytes: int


def make_plan(
    config: TuneConfig,
    footprint: Footprint,
    h: Hyperparameters,
    *,
    num_tokens: int,
    longest: int,
    room_bytes: int,
) -> MemoryPlan:
    """The largest rows and batches that fit, least memory last.

    Raises:
        CapacityError: not even the smallest plan fits into the budget.
    """
    # What is resident already is no longer free.
    budget = config.memory_bytes or room_bytes + footprint.runtime_bytes
    rank = config.rank or default_rank(num_tokens)
    wanted = config.length or min(_DEFAULT_LENGTH, max(64, longest))
    wanted = min(wanted, h.training_context)
    step_tokens = config.step_tokens or default_step_tokens(num_tokens, config.epochs)
    smallest = None
    lengths = [wanted, *(n for n in _LENGTHS if n < wanted and config.length is None)]
    for length in lengths:
        for checkpointing, keep_block, logits_bytes in (
            (False, False, _LOGITS_BYTES[0]),
            (True, True, _LOGITS_BYTES[0]),
            (True, True, _LOGITS_BYTES[1]),
            (True, False, _LOGITS_BYTES[1]),
        ):
            step_rows = max(1, round(step_tokens / length))
            micro_rows = max(1, min(step_rows, _MICRO_TOKENS // length))
            while True:
                plan = MemoryPlan(
                    rank=rank,
                    length=length,
                    micro_rows=micro_rows,
                    step_rows=step_rows,
                    checkpointing=checkpointing,
                    keep_block=keep_block,
                    logits_bytes=logits_bytes,
                    estimated_bytes=0,
                    budget_bytes=budget,
                )
                plan = replace(plan, estimated_bytes=estimate_bytes(plan, footprint))
                if plan.estimated_bytes * _SLACK <= budget:
                    return plan
                smallest = plan
                if micro_rows == 1:
                    break
                micro_rows //= 2
    assert smallest is not None
    raise CapacityError(
        f"tuning needs about {format_bytes(smallest.estimated_bytes)}, "
        f"{format_bytes(budget)} may be used",
        code="tune.memory",
        needed=smallest.estimated_bytes,
        available=budget,
        hint="close other programs, or use --memory, a smaller --rank or a smaller --length",
    )


def default_rank(num_tokens: int) -> int:
    """More text has more to say: 8 for a few pages, 16 for a book, 32 for a shelf."""
    return 8 if num_tokens < 100_000 else 16 if num_tokens < 2_000_000 else 32


def default_step_tokens(num_tokens: int, epochs: float) -> int:
    low, high = _STEP_TOKENS
    return int(min(high, max(low, num_tokens * epochs / _WANTED_STEPS)))


def count_steps(config: TuneConfig, num_rows: int, step_rows: int) -> int:
    """How many steps see every row as often as was asked for."""
    steps = max(1, math.ceil(num_rows * config.epochs / step_rows))
    return steps if config.max_steps is None else min(steps, config.max_steps)


def estimate_bytes(plan: MemoryPlan, f: Footprint) -> int:
    """Everything that is resident at the worst moment, the mapped file included."""
    tokens = plan.micro_rows * plan.length
    adapter = _ADAPTER_COPIES * plan.rank * f.adapter_elements_per_rank
    # What autograd keeps of one block: inputs of norms, projections and activations, as measured.
    block = tokens * (
        12 * f.width + 4 * f.q_width + 4 * f.kv_width + 8 * f.feed_forward_width
    ) + plan.micro_rows * plan.length**2 * (1 + 5 * f.explicit_heads)
    entries = tokens * f.width * f.num_blocks
    # On the way back there are gradients beside what was kept.
    activations = 2 * block + entries if plan.checkpointing else block * f.num_blocks * 4 // 3
    kept = f.block_elements if plan.keep_block else 0
    head = min(tokens * f.vocabulary_size * _FLOAT_BYTES, plan.logits_bytes)
    elements = adapter + activations + kept + f.largest_matrix
    fixed = f.runtime_bytes + _HEAP_BYTES + f.file_bytes + _HEAD_TILE_BYTES
    return fixed + head + _FLOAT_BYTES * elements
