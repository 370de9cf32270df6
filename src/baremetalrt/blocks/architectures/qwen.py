"""Qwen 2 (Llama with biases), Qwen 3 (norms on queries and keys), Qwen 3 with experts.

Source: arXiv 2407.10671 and 2505.09388.
"""

from baremetalrt.blocks.architecture import (
    Architecture,
    TensorSpec,
    attention_tensors,
    expert_tensors,
    gated_feed_forward_tensors,
    head_norm_tensors,
    norm_tensors,
)
from baremetalrt.blocks.architectures.llama import llama_block, llama_tensors
from baremetalrt.blocks.builder import BlockBuilder
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.native.graph import ROPE_NEOX, Tensor


def _qwen3_block(b: BlockBuilder, x_TD: Tensor) -> Tensor:
    normed = b.norm(x_TD, "attn_norm")
    k, v = b.keys_and_values(normed)
    q = b.rope(b.norm(b.queries(normed), "attn_q_norm"))
    attended = b.attend(q, b.rope(b.norm(k, "attn_k_norm")), v)
    x_TD = b.g.add(b.project(attended), b.outputs(x_TD))
    normed = b.norm(x_TD, "ffn_norm")
    return b.g.add(b.experts(normed) if b.h.num_experts else b.silu_feed_forward(normed), x_TD)


def _qwen3_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    attention = attention_tensors(h) | head_norm_tensors(h)
    return norm_tensors(h, "attn_norm", "ffn_norm") | attention | gated_feed_forward_tensors(h)


def _qwen3moe_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    attention = attention_tensors(h) | head_norm_tensors(h)
    return norm_tensors(h, "attn_norm", "ffn_norm") | attention | expert_tensors(h)


ARCHITECTURES = (
    Architecture(name="qwen2", rope_mode=ROPE_NEOX, block=llama_block, block_tensors=llama_tensors),
    Architecture(
        name="qwen3", rope_mode=ROPE_NEOX, block=_qwen3_block, block_tensors=_qwen3_tensors
    ),
    Architecture(
        name="qwen3moe",
        rope_mode=ROPE_NEOX,
        block=_qwen3_block,
        block_tensors=_qwen3moe_tensors,
    ),
)
