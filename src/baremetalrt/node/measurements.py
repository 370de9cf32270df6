"""What a model needs and how fast this machine is: the figures that placement plans with."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.kv_cache import token_bytes
from baremetalrt.blocks.needs import span_needs
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.node.node import Node
from baremetalrt.node.options import ModelOptions
from baremetalrt.placement.profiles import Demand, DeviceProfile, ModelProfile, Sizes
from baremetalrt.weights.direct_reads import read_through
from baremetalrt.weights.gguf import EMBEDDING, HEAD, GGUFFile
from baremetalrt.weights.store import default_model

_WARM_UP_STEPS: Final = 2
_STEPS: Final = 7
# Blocks that are loaded only to be timed: enough that fixed costs of a step fade.
_PROBE_BLOCKS: Final = 4
_PROBE_CONTEXT: Final = 256
# Where nobody says how long a text may be.
_CONTEXT_TOKENS: Final = 4096


def profile_model(file: GGUFFile) -> ModelProfile:
    """Sizes of a model; the header is enough."""
    _, h = read_model(file)
    tensors = file.outer_tensors
    embedding = tensors[EMBEDDING].num_bytes
    is_tied = HEAD not in tensors
    return ModelProfile(
        block_bytes=tuple(block.num_bytes for block in file.blocks),
        entry_bytes=embedding,
        head_bytes=embedding if is_tied else tensors[HEAD].num_bytes,
        shared_bytes=embedding if is_tied else 0,
        # What is hosted for others is kept in half precision, whatever this machine keeps its own in.
        cell_bytes=token_bytes(h),
        row_bytes=4 * h.width,
        answer_bytes=4 * h.vocabulary_size,
    )


def demand_of(file: GGUFFile, options: ModelOptions) -> Demand:
    """What the cache is to have room for: as many texts as the node takes, as long as is asked for."""
    _, h = read_model(file)
    context = min(options.context or _CONTEXT_TOKENS, h.training_context)
    return Demand(context, options.max_sessions)


def decode_step_s(span: Span) -> float:
    """Median seconds of a decode step of one text. Nothing else may use the span meanwhile."""
    h = span.hyperparameters
    rows = None if span.blocks.start == 0 else np.full((1, h.width), 0.01, dtype=np.float32)
    sequence = span.open((), _WARM_UP_STEPS + _STEPS)
    seconds = []
    try:
        for _ in range(_WARM_UP_STEPS + _STEPS):
            started = time.perf_counter()
            span.forward([Slice(sequence, [1], rows)], "last")
            seconds.append(time.perf_counter() - started)
    finally:
        span.release(sequence, keep=False)
    return statistics.median(seconds[_WARM_UP_STEPS:])


def byte_s(file: GGUFFile, blocks: BlockSpan, step_s: float) -> float:
    """Seconds for each byte that a step of a span reads, from the seconds of the step."""
    return step_s / Sizes(profile_model(file), Demand(context=0)).read_bytes(blocks)


# Seconds for a byte that a decode step reads: see `byte_s`.
Measure = Callable[[Node, GGUFFile], float]


def measurable(
    file: GGUFFile, has_weights: Callable[[Sequence[ByteRange]], bool] | None = None
) -> GGUFFile:
    """What is timed: the model itself, if the blocks for that are here, or the embedded default.

    `has_weights` knows what is here, None for all. What has not come yet reads as zeros, much too fast.

    Raises:
        UsageError: neither is here.
    """
    needs = span_needs(file, _probed(file))
    if not file.missing(needs) and (has_weights is None or has_weights(needs)):
        return file
    default = default_model()
    if default is None:
        raise UsageError(
            "this machine has no blocks to time itself by",
            code="model.not-found",
            hint="`make run` installs the embedded default; or `bmrt pull` the model with --blocks 0:4",
        )
    return GGUFFile.open(default.path)


def _probed(file: GGUFFile) -> BlockSpan:
    return BlockSpan(0, min(_PROBE_BLOCKS, len(file.blocks)))


def disk_byte_s(file: GGUFFile) -> float:
    """Seconds for each byte of weights that is read from disk, by some that are read."""
    largest = max(file.blocks, key=lambda block: block.num_bytes)
    ranges = largest.byte_ranges
    started = time.perf_counter()
    num_bytes = read_through(file.paths, ranges)
    return (time.perf_counter() - started) / num_bytes


def profile_here(
    node: Node, file: GGUFFile, timed: GGUFFile, measure: Measure, budget_bytes: int, id_: str
) -> DeviceProfile:
    """This machine, for spans of `file`: how fast it computes `timed`, and reads what has no room."""
    reads = timed is file and file.num_bytes > budget_bytes
    return DeviceProfile(
        id=id_,
        budget_bytes=budget_bytes,
        byte_s=measure(node, timed),
        disk_byte_s=disk_byte_s(file) if reads else None,
    )


def measure_here(node: Node, file: GGUFFile) -> float:
    """`byte_s` of this machine by a few blocks; they have to be here."""
    blocks = _probed(file)
    span, _ = node.host(file, blocks, _PROBE_CONTEXT)
    return byte_s(file, blocks, decode_step_s(span))
