"""What placement needs to know of a model: its sizes, for how long texts, and what reading it takes."""

import time
from typing import Final

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.inventory import list_tensors
from baremetalrt.blocks.kv_cache import token_bytes
from baremetalrt.core.spans import BlockSpan
from baremetalrt.node.options import ModelOptions
from baremetalrt.placement.profiles import Demand, ModelProfile
from baremetalrt.weights.direct_reads import read_through
from baremetalrt.weights.gguf import EMBEDDING, HEAD, GGUFFile

# Where nobody says how long a text may be.
_CONTEXT_TOKENS: Final = 4096


def profile_model(file: GGUFFile) -> ModelProfile:
    """Sizes of a model; the header is enough. Raises like `read_model` and `list_tensors`."""
    architecture, h = read_model(file)
    list_tensors(file, architecture, h, BlockSpan(0, h.num_blocks))
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


def disk_byte_s(file: GGUFFile) -> float:
    """Seconds for each byte of weights that is read from disk, by some that are read."""
    largest = max(file.blocks, key=lambda block: block.num_bytes)
    ranges = largest.byte_ranges
    started = time.perf_counter()
    num_bytes = read_through(file.paths, ranges)
    return (time.perf_counter() - started) / num_bytes
