"""Llama and those that differ from it in a number or two: Mistral, SmolLM, Granite, Seed-OSS.

Source: arXiv 2302.13971; Mixtral for the experts; Granite's four scales from its model card.
"""

from dataclasses import replace

from baremetalrt.blocks.architecture import (
    Architecture,
    TensorSpec,
    attention_tensors,
    expert_tensors,
    gated_feed_forward_tensors,
    norm_tensors,
)
from baremetalrt.blocks.builder import BlockBuilder
from baremetalrt.blocks.hyperparameters import Hyperparameters, MetadataReader
from baremetalrt.native.graph import ROPE_INTERLEAVED, ROPE_NEOX, Tensor

# SmolLM3 leaves every fourth block without position embedding.
_SMOLLM3_UNROTATED_STEP = 4


def _block(b: BlockBuilder, x_TD: Tensor, *, ffn_norm: str, rotates: bool) -> Tensor:
    normed = b.norm(x_TD, "attn_norm")
    k, v = b.keys_and_values(normed)
    q = b.queries(normed)
    if rotates:
        k, q = b.rope(k), b.rope(q)
    x_TD = _add(b, b.project(b.attend(b.temper(q), k, v)), b.outputs(x_TD))
    normed = b.norm(x_TD, ffn_norm)
    return _add(b, b.experts(normed) if b.h.num_experts else b.silu_feed_forward(normed), x_TD)


def _add(b: BlockBuilder, branch: Tensor, x_TD: Tensor) -> Tensor:
    if b.h.residual_scale != 1.0:
        branch = b.g.scale(branch, b.h.residual_scale)
    return b.g.add(branch, x_TD)


def llama_block(b: BlockBuilder, x_TD: Tensor) -> Tensor:
    """Norm, attention, add; norm, feed-forward, add."""
    return _block(b, x_TD, ffn_norm="ffn_norm", rotates=True)


def _smollm3_block(b: BlockBuilder, x_TD: Tensor) -> Tensor:
    rotates = (b.index + 1) % _SMOLLM3_UNROTATED_STEP != 0
    return _block(b, x_TD, ffn_norm="ffn_norm", rotates=rotates)


def _seed_oss_block(b: BlockBuilder, x_TD: Tensor) -> Tensor:
    return _block(b, x_TD, ffn_norm="post_attention_norm", rotates=True)


def llama_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    feed_forward = expert_tensors(h) if h.num_experts else gated_feed_forward_tensors(h)
    return norm_tensors(h, "attn_norm", "ffn_norm") | attention_tensors(h) | feed_forward


def _seed_oss_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    norms = norm_tensors(h, "attn_norm", "post_attention_norm")
    return norms | attention_tensors(h) | gated_feed_forward_tensors(h)


def _configure_llama(reader: MetadataReader, h: Hyperparameters) -> Hyperparameters:
    if h.rope.num_dims != h.head_size:
        raise reader.wrong("rope.dimension_count", h.rope.num_dims, f"{h.head_size}")
    scale = reader.number("attention.scale", low=0.0, high=1e4, default=0.0)
    return replace(h, attention_scale=scale or h.attention_scale)


def _configure_mistral3(reader: MetadataReader, h: Hyperparameters) -> Hyperparameters:
    temperature = reader.number("attention.temperature_scale", low=0.0, high=1e4, default=0.0)
    return replace(_configure_llama(reader, h), temperature_scale=temperature)


def _configure_granite(reader: MetadataReader, h: Hyperparameters) -> Hyperparameters:
    if not reader.flag("rope.scaling.finetuned", default=True):
        raise reader.wrong("rope.scaling.finetuned", False, "rotary positions")

    def scale(key: str) -> float:
        # Zero stands for "not set".
        return reader.number(key, low=0.0, high=1e6, default=0.0) or 1.0

    return replace(
        _configure_llama(reader, h),
        residual_scale=scale("residual_scale"),
        embedding_scale=scale("embedding_scale"),
        logit_scale=1.0 / reader.number("logit_scale", low=1e-6, high=1e6),
    )


ARCHITECTURES = (
    Architecture(
        name="llama",
        rope_mode=ROPE_INTERLEAVED,
        block=llama_block,
        block_tensors=llama_tensors,
        configure=_configure_llama,
    ),
    Architecture(
        name="mistral3",
        rope_mode=ROPE_INTERLEAVED,
        block=llama_block,
        block_tensors=llama_tensors,
        configure=_configure_mistral3,
    ),
    Architecture(
        name="granite",
        rope_mode=ROPE_INTERLEAVED,
        block=llama_block,
        block_tensors=llama_tensors,
        configure=_configure_granite,
    ),
    Architecture(
        name="smollm3",
        rope_mode=ROPE_INTERLEAVED,
        block=_smollm3_block,
        block_tensors=llama_tensors,
        configure=_configure_llama,
    ),
    Architecture(
        name="seed_oss",
        rope_mode=ROPE_NEOX,
        block=_seed_oss_block,
        block_tensors=_seed_oss_tensors,
        configure=_configure_llama,
    ),
)
