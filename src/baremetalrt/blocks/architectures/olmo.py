"""OLMo 2 and 3: norms after attention and feed-forward instead of before, and over all heads at once.

Source: arXiv 2501.00656; OLMo 3 adds a sliding window whose blocks skip YaRN.
"""

from dataclasses import replace

from baremetalrt.blocks.architecture import (
    Architecture,
    TensorSpec,
    attention_tensors,
    gated_feed_forward_tensors,
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

_WINDOW_PERIOD = 4


def _olmo2_block(b: BlockBuilder, x_TD: Tensor) -> Tensor:
    g, h = b.g, b.h
    q_TD = b.norm(b.linear(x_TD, "attn_q"), "attn_q_norm")
    k_TD = b.norm(b.linear(x_TD, "attn_k"), "attn_k_norm")
    v_TD = b.linear(x_TD, "attn_v")
    q = b.rope(g.reshape(q_TD, h.head_size, h.num_heads, b.num_tokens))
    k = b.rope(g.reshape(k_TD, h.head_size, h.num_kv_heads, b.num_tokens))
    branch = b.norm(b.project(b.attend(q, k, v_TD)), "post_attention_norm")
    x_TD = g.add(branch, b.outputs(x_TD))
    return g.add(b.norm(b.silu_feed_forward(x_TD), "post_ffw_norm"), x_TD)


def _olmo2_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    norms = norm_tensors(h, "post_attention_norm", "post_ffw_norm")
    head_norms = {
        "attn_q_norm.weight": TensorSpec((h.num_heads * h.head_size,)),
        "attn_k_norm.weight": TensorSpec((h.kv_width,)),
    }
    return norms | head_norms | attention_tensors(h) | gated_feed_forward_tensors(h)


def _configure_olmo2(reader: MetadataReader, h: Hyperparameters) -> Hyperparameters:
    window = reader.integer("attention.sliding_window", low=0, high=MAX_CONTEXT, default=0)
    if not window:
        return h
    plain = replace(h.rope, scale=1.0, extrapolation=0.0, attention_factor=1.0)
    return replace(
        h,
        window=window,
        windowed=window_pattern(reader, h, period=_WINDOW_PERIOD),
        window_rope=plain,
    )


ARCHITECTURES = (
    Architecture(
        name="olmo2",
        rope_mode=ROPE_NEOX,
        block=_olmo2_block,
        block_tensors=_olmo2_tensors,
        configure=_configure_olmo2,
    ),
)
