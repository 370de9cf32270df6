"""Phi 3: queries, keys and values in one matrix, gate and up in another.

Source: arXiv 2404.14219; the long and short rope factors from its LongRoPE variant, 2402.13753.
"""

from baremetalrt.blocks.architecture import (
    Architecture,
    TensorSpec,
    fused_attention_tensors,
    norm_tensors,
)
from baremetalrt.blocks.builder import BlockBuilder
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.native.graph import ROPE_NEOX, Tensor


def _phi3_block(b: BlockBuilder, x_TD: Tensor) -> Tensor:
    q, k, v = b.fused_queries_keys_values(b.norm(x_TD, "attn_norm"))
    x_TD = b.g.add(b.project(b.attend(b.rope(q), b.rope(k), v)), b.outputs(x_TD))
    return b.g.add(
        b.linear(b.g.swiglu(b.linear(b.norm(x_TD, "ffn_norm"), "ffn_up")), "ffn_down"), x_TD
    )


def _phi3_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    ff = h.feed_forward_width
    return (
        norm_tensors(h, "attn_norm", "ffn_norm")
        | fused_attention_tensors(h)
        | {
            "ffn_up.weight": TensorSpec((h.width, 2 * ff)),
            "ffn_down.weight": TensorSpec((ff, h.width)),
        }
    )


ARCHITECTURES = (
    Architecture(name="phi3", rope_mode=ROPE_NEOX, block=_phi3_block, block_tensors=_phi3_tensors),
)
