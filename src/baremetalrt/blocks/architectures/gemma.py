"""Gemma: scaled embeddings and GELU; 2 adds soft caps and windows; 3 adds norms on queries and keys.

Source: arXiv 2403.08295, 2408.00118, 2503.19786; defaults as in llama.cpp's `gemma2.cpp`.
"""

import math
from dataclasses import replace

from baremetalrt.blocks.architecture import (
    Architecture,
    TensorSpec,
    attention_tensors,
    gated_feed_forward_tensors,
    head_norm_tensors,
    norm_tensors,
)
from baremetalrt.blocks.builder import BlockBuilder
from baremetalrt.blocks.hyperparameters import (
    MAX_CONTEXT,
    Hyperparameters,
    MetadataReader,
    window_pattern,
)
from baremetalrt.native.graph import ROPE_NEOX, Tensor

# The 27B models divide by the width per head instead of the head size; they are known by depth.
_GEMMA2_27B_BLOCKS = 46
_GEMMA3_27B_BLOCKS = 62


def _gemma_block(b: BlockBuilder, x_TD: Tensor) -> Tensor:
    normed = b.norm(x_TD, "attn_norm")
    k, v = b.keys_and_values(normed)
    attended = b.attend(b.rope(b.queries(normed)), b.rope(k), v)
    x_TD = b.g.add(b.project(attended), b.outputs(x_TD))
    return b.g.add(b.gelu_feed_forward(b.norm(x_TD, "ffn_norm")), x_TD)


def _gemma2_block(b: BlockBuilder, x_TD: Tensor) -> Tensor:
    """Each branch is normed once more before it is added."""
    normed = b.norm(x_TD, "attn_norm")
    k, v = b.keys_and_values(normed)
    q = b.queries(normed)
    if "attn_q_norm.weight" in b.weights:  # Gemma 3
        q, k = b.norm(q, "attn_q_norm"), b.norm(k, "attn_k_norm")
    branch = b.project(b.attend(b.rope(q), b.rope(k), v))
    x_TD = b.g.add(b.norm(branch, "post_attention_norm"), b.outputs(x_TD))
    branch = b.gelu_feed_forward(b.norm(x_TD, "ffn_norm"))
    return b.g.add(b.norm(branch, "post_ffw_norm"), x_TD)


def _gemma_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    norms = norm_tensors(h, "attn_norm", "ffn_norm")
    return norms | attention_tensors(h) | gated_feed_forward_tensors(h)


def _gemma2_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    return _gemma_tensors(h) | norm_tensors(h, "post_attention_norm", "post_ffw_norm")


def _gemma3_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    return _gemma2_tensors(h) | head_norm_tensors(h)


def _configure_gemma(_reader: MetadataReader, h: Hyperparameters) -> Hyperparameters:
    return replace(h, embedding_scale=math.sqrt(h.width))


def _attention_scale(h: Hyperparameters, wide_at: int) -> float:
    divisor = h.width // h.num_heads if h.num_blocks == wide_at else h.head_size
    return 1.0 / math.sqrt(divisor)


def _configure_gemma2(reader: MetadataReader, h: Hyperparameters) -> Hyperparameters:
    base = reader.number("rope.freq_base_swa", low=1e-3, high=1e12, default=h.rope.base)
    return replace(
        _configure_gemma(reader, h),
        attention_scale=_attention_scale(h, _GEMMA2_27B_BLOCKS),
        window=reader.integer("attention.sliding_window", low=1, high=MAX_CONTEXT, default=4096),
        windowed=window_pattern(reader, h, period=2),
        window_rope=replace(h.rope, base=base),
        attention_softcap=reader.number("attn_logit_softcapping", low=0.0, high=1e6, default=50.0),
        logit_softcap=reader.number("final_logit_softcapping", low=1e-3, high=1e6, default=30.0),
    )


def _configure_gemma3(reader: MetadataReader, h: Hyperparameters) -> Hyperparameters:
    window = reader.integer("attention.sliding_window", low=0, high=MAX_CONTEXT, default=0)
    base = reader.number("rope.freq_base_swa", low=1e-3, high=1e12, default=10000.0)
    return replace(
        _configure_gemma(reader, h),
        attention_scale=_attention_scale(h, _GEMMA3_27B_BLOCKS),
        window=window,
        windowed=window_pattern(reader, h, period=6) if window else (),
        window_rope=replace(h.rope, base=base, scale=1.0),
        logit_softcap=reader.number("final_logit_softcapping", low=0.0, high=1e6, default=0.0),
    )


ARCHITECTURES = (
    Architecture(
        name="gemma",
        rope_mode=ROPE_NEOX,
        block=_gemma_block,
        block_tensors=_gemma_tensors,
        configure=_configure_gemma,
    ),
    Architecture(
        name="gemma2",
        rope_mode=ROPE_NEOX,
        block=_gemma2_block,
        block_tensors=_gemma2_tensors,
        configure=_configure_gemma2,
    ),
    Architecture(
        name="gemma3",
        rope_mode=ROPE_NEOX,
        block=_gemma2_block,
        block_tensors=_gemma3_tensors,
        configure=_configure_gemma3,
    ),
)
