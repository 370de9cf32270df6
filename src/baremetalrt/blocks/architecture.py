"""What an architecture is made of: its tensors, its extra numbers, and how one block computes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from baremetalrt.blocks.hyperparameters import Hyperparameters, MetadataReader
from baremetalrt.native.graph import Tensor

if TYPE_CHECKING:
    from baremetalrt.blocks.builder import BlockBuilder

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a block may have. One dimension: a vector; more: something to multiply by."""

    shape: Shape
    required: bool = True


BlockFunction = Callable[["BlockBuilder", Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One entry of the registry in `architectures/__init__.py`.

    `block` appends one block to a graph and returns its output.
    `configure` adds the numbers that only this family has.
    """

    name: str
    rope_mode: int
    block: BlockFunction
    block_tensors: Callable[[Hyperparameters], dict[str, TensorSpec]]
    configure: Callable[[MetadataReader, Hyperparameters], Hyperparameters] = (
        lambda _reader, hyper: hyper
    )


def outer_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    """The tensors outside of the blocks. Without `output.weight` the head is the embedding."""
    half = h.rope.num_dims // 2
    return {
        "token_embd.weight": TensorSpec((h.width, h.vocabulary_size)),
        "output_norm.weight": TensorSpec((h.width,)),
        "output.weight": TensorSpec((h.width, h.vocabulary_size), required=False),
        "output.bias": TensorSpec((h.vocabulary_size,), required=False),
        "rope_freqs.weight": TensorSpec((half,), required=False),
        "rope_factors_long.weight": TensorSpec((half,), required=False),
        "rope_factors_short.weight": TensorSpec((half,), required=False),
    }


def attention_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    """Separate projections of queries, keys and values, each with an optional bias."""
    q_width = h.num_heads * h.head_size
    return {
        "attn_q.weight": TensorSpec((h.width, q_width)),
        "attn_q.bias": TensorSpec((q_width,), required=False),
        "attn_k.weight": TensorSpec((h.width, h.kv_width)),
        "attn_k.bias": TensorSpec((h.kv_width,), required=False),
        "attn_v.weight": TensorSpec((h.width, h.kv_width)),
        "attn_v.bias": TensorSpec((h.kv_width,), required=False),
        "attn_output.weight": TensorSpec((q_width, h.width)),
        "attn_output.bias": TensorSpec((h.width,), required=False),
    }


def fused_attention_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    """Queries, keys and values from one matrix."""
    q_width = h.num_heads * h.head_size
    return {
        "attn_qkv.weight": TensorSpec((h.width, q_width + 2 * h.kv_width)),
        "attn_qkv.bias": TensorSpec((q_width + 2 * h.kv_width,), required=False),
        "attn_output.weight": TensorSpec((q_width, h.width)),
        "attn_output.bias": TensorSpec((h.width,), required=False),
    }


def gated_feed_forward_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    """Gate and up projections, multiplied, then down."""
    ff = h.feed_forward_width
    return {
        "ffn_gate.weight": TensorSpec((h.width, ff)),
        "ffn_gate.bias": TensorSpec((ff,), required=False),
        "ffn_up.weight": TensorSpec((h.width, ff)),
        "ffn_up.bias": TensorSpec((ff,), required=False),
        "ffn_down.weight": TensorSpec((ff, h.width)),
        "ffn_down.bias": TensorSpec((h.width,), required=False),
    }


def expert_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    """A router and `num_experts` gated feed-forward networks in three tensors."""
    n, ff = h.num_experts, h.expert_width
    return {
        "ffn_gate_inp.weight": TensorSpec((h.width, n)),
        "ffn_gate_exps.weight": TensorSpec((h.width, ff, n)),
        "ffn_up_exps.weight": TensorSpec((h.width, ff, n)),
        "ffn_down_exps.weight": TensorSpec((ff, h.width, n)),
    }


def norm_tensors(h: Hyperparameters, *names: str) -> dict[str, TensorSpec]:
    """RMS norms over the model width."""
    return {f"{name}.weight": TensorSpec((h.width,)) for name in names}


def head_norm_tensors(h: Hyperparameters) -> dict[str, TensorSpec]:
    """RMS norms over each head of the queries and of the keys."""
    return {
        "attn_q_norm.weight": TensorSpec((h.head_size,)),
        "attn_k_norm.weight": TensorSpec((h.head_size,)),
    }
