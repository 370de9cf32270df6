"""One tiny model for each architecture and each way of computing it, and texts through their spans."""

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Reads, Slice
from tiny_models import TinyModel

# Largest absolute difference of any logit, as a share of the largest logit.
#
# SAME_ORDER: both sides take the same chunks, and so sum in the same order; what is left is a factor
# applied before a product on one side and after it on the other. We see 0 nearly everywhere, 2e-7 at
# most.
#
# OTHER_ORDER: the text is cut otherwise, or several sessions share a batch. Attention stores and sums
# in half precision (steps of 2**-11, 5e-4), so each block moves its output by about that much. We see
# 6e-3 at most between llama.cpp's own prefill and its own decode of these models.
SAME_ORDER = 1e-5
OTHER_ORDER = 2e-2

CASES = {
    "llama": TinyModel("llama"),
    "llama-heads": TinyModel("llama", num_heads=6, num_kv_heads=6, head_size=8),
    "llama-one-kv-head": TinyModel("llama", num_heads=4, num_kv_heads=1, head_size=32),
    "llama-tied": TinyModel("llama", tied=True),
    "llama-biases": TinyModel("llama", biases=True),
    "llama3-rope": TinyModel(
        "llama", rope_factors=("rope_freqs",), metadata={"rope.freq_base": 500000.0}
    ),
    "llama-linear-rope": TinyModel(
        "llama", metadata={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    ),
    "llama-yarn": TinyModel(
        "llama",
        metadata={
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 512,
        },
    ),
    "mixtral": TinyModel("llama", num_experts=4, num_experts_used=2),
    "mistral3": TinyModel(
        "mistral3",
        metadata={
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 128,
            "rope.scaling.yarn_log_multiplier": 1.0,
            "attention.temperature_scale": 0.1,
        },
    ),
    "granite": TinyModel(
        "granite",
        metadata={
            "logit_scale": 8.0,
            "residual_scale": 0.22,
            "embedding_scale": 12.0,
            "attention.scale": 0.0625,
        },
    ),
    "smollm3": TinyModel("smollm3", num_blocks=5),
    "seed_oss": TinyModel("seed_oss", biases=True),
    "qwen2": TinyModel("qwen2", biases=True, tied=True),
    "qwen3": TinyModel("qwen3", head_size=32),
    "qwen3moe": TinyModel("qwen3moe", num_experts=8, num_experts_used=3),
    "qwen3moe-one": TinyModel("qwen3moe", num_experts=4, num_experts_used=1),
    "gemma": TinyModel("gemma", tied=True, num_kv_heads=1),
    "gemma2": TinyModel(
        "gemma2",
        tied=True,
        num_blocks=4,
        metadata={
            "attention.sliding_window": 64,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "gemma3": TinyModel(
        "gemma3",
        tied=True,
        num_blocks=7,
        metadata={"attention.sliding_window": 48, "rope.freq_base": 1000000.0},
    ),
    "gemma3-no-window": TinyModel("gemma3", tied=True),
    "phi3": TinyModel("phi3"),
    "phi3-partial-rope": TinyModel("phi3", rope_dims=8),
    "phi3-long-rope": TinyModel(
        "phi3",
        rope_factors=("rope_factors_long", "rope_factors_short"),
        metadata={
            "rope.scaling.original_context_length": 512,
            "rope.scaling.attn_factor": 1.19,
            "rope.scaling.type": "longrope",
        },
    ),
    "olmo2": TinyModel("olmo2"),
    "olmo3": TinyModel(
        "olmo2",
        num_blocks=4,
        metadata={
            "attention.sliding_window": 64,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 512,
        },
    ),
}
# Widths that every quantization type divides.
WIDE = {"width": 256, "head_size": 64, "feed_forward_width": 512}
CONTEXT = 1024
QUANTIZED = ["Q8_0", "Q4_0", "Q4_K"]


def run(span: Span, tokens: NDArray[np.int32], chunks: list[int], reads: Reads = "all"):
    """The logits of a text that is computed in chunks of the given sizes."""
    sequence = span.open([int(tokens[0])], len(tokens))
    rows, done = [], 0
    for n in chunks:
        chunk = tokens[done : done + n].tolist()
        rows.append(span.forward([Slice(sequence, chunk)], reads).copy())
        done += n
    span.release(sequence, keep=False)
    return np.concatenate(rows)


def tokens_of(model: TinyModel, count: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(model.seed + 1)
    return rng.integers(0, model.vocabulary_size, count).astype(np.int32)
