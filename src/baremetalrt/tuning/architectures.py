"""Which `transformers` model computes what the engine computes, and which tensor of the file goes where.

An entry says what differs from Llama. Numbers come from the engine's own reading of the metadata, so that
both agree on them; rotary positions are set afterwards by `rotary.py`, by ggml's formula.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.core.errors import UsageError

Extra = Callable[[Hyperparameters], dict[str, Any]]

# GGUF name in a block -> module of a `transformers` block.
LINEARS: Final[dict[str, str]] = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMS: Final[dict[str, str]] = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_BRANCH_NORMS: Final[dict[str, str]] = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def _nothing(_h: Hyperparameters) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Counterpart:
    """The model of `transformers` that stands for an architecture of the engine."""

    model: str
    config: str
    extra: Extra = _nothing
    linears: Mapping[str, str] = field(default_factory=lambda: LINEARS)
    norms: Mapping[str, str] = field(default_factory=lambda: NORMS)
    # The file holds these norms with one added; `transformers` adds it when it computes.
    norm_offset: float = 0.0
    # Soft caps inside of attention are known to the plain implementation only.
    attention: str = "sdpa"


def counterpart(h: Hyperparameters) -> Counterpart | None:
    """The entry for a model, or None when `transformers` has nothing like it."""
    if h.architecture == "llama" and h.num_experts:
        return _MIXTRAL
    if h.architecture == "olmo2" and h.window:
        return _OLMO3
    return _COUNTERPARTS.get(h.architecture)


def require_counterpart(h: Hyperparameters) -> Counterpart:
    """The entry for a model that is to be tuned.

    Raises:
        UsageError: `transformers` has nothing like it.
    """
    entry = counterpart(h)
    if entry is None or h.expert_weights_scale not in (0.0, 1.0):
        raise UsageError(
            f"models of the architecture {h.architecture} cannot be tuned here",
            code="tune.architecture",
            hint="`bmrt show` tells a model's architecture; Llama, Qwen, Gemma, Phi 3 and OLMo 2 work",
        )
    return entry


def config_arguments(entry: Counterpart, h: Hyperparameters) -> dict[str, Any]:
    """Arguments of the configuration class."""
    return {
        "vocab_size": h.vocabulary_size,
        "hidden_size": h.width,
        "intermediate_size": h.feed_forward_width or h.expert_width,
        "num_hidden_layers": h.num_blocks,
        "num_attention_heads": h.num_heads,
        "num_key_value_heads": h.num_kv_heads,
        "head_dim": h.head_size,
        "rms_norm_eps": h.norm_epsilon,
        "max_position_embeddings": h.training_context,
        "rope_parameters": {"rope_type": "default", "rope_theta": h.rope.base},
        "tie_word_embeddings": False,
        "attention_dropout": 0.0,
        "use_cache": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": entry.attention,
        **entry.extra(h),
    }


def _layer_types(h: Hyperparameters) -> list[str]:
    return [
        "sliding_attention" if h.is_windowed(i) else "full_attention" for i in range(h.num_blocks)
    ]


def _both_ropes(h: Hyperparameters) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": h.rope.base}
    return {"full_attention": dict(rope), "sliding_attention": dict(rope)}


def _ministral(h: Hyperparameters) -> dict[str, Any]:
    return {
        "sliding_window": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": h.rope.base,
            "llama_4_scaling_beta": h.temperature_scale,
            "original_max_position_embeddings": h.rope.original_context,
        },
    }


def _granite(h: Hyperparameters) -> dict[str, Any]:
    return {
        "embedding_multiplier": h.embedding_scale,
        "residual_multiplier": h.residual_scale,
        "attention_multiplier": h.attention_scale,
    }


def _smollm3(h: Hyperparameters) -> dict[str, Any]:
    return {
        "no_rope_layers": [int((i + 1) % 4 != 0) for i in range(h.num_blocks)],
        "use_sliding_window": False,
    }


def _gemma2(h: Hyperparameters) -> dict[str, Any]:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": h.attention_softcap or None,
        # A mask for windows is made even where no block has one.
        "sliding_window": h.window or h.training_context,
        "layer_types": _layer_types(h),
    }


def _gemma3(h: Hyperparameters) -> dict[str, Any]:
    return {**_gemma2(h), "rope_parameters": _both_ropes(h)}


def _mixtral(h: Hyperparameters) -> dict[str, Any]:
    return {
        "num_local_experts": h.num_experts,
        "num_experts_per_tok": h.num_experts_used,
        "intermediate_size": h.expert_width,
        "sliding_window": None,
    }


def _qwen3moe(h: Hyperparameters) -> dict[str, Any]:
    return {
        "num_experts": h.num_experts,
        "num_experts_per_tok": h.num_experts_used,
        "moe_intermediate_size": h.expert_width,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _phi3(h: Hyperparameters) -> dict[str, Any]:
    return {
        "sliding_window": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": h.rope.base,
            "partial_rotary_factor": h.rope.num_dims / h.head_size,
        },
    }


def _olmo3(h: Hyperparameters) -> dict[str, Any]:
    return {
        "sliding_window": h.window,
        "layer_types": _layer_types(h),
        "rope_parameters": _both_ropes(h),
    }


_MIXTRAL: Final = Counterpart(model="MixtralForCausalLM", config="MixtralConfig", extra=_mixtral)
_OLMO3: Final = Counterpart(
    model="Olmo3ForCausalLM", config="Olmo3Config", extra=_olmo3, norms=NORMS | _BRANCH_NORMS
)
_COUNTERPARTS: Final[dict[str, Counterpart]] = {
    "llama": Counterpart(model="LlamaForCausalLM", config="LlamaConfig"),
    "mistral3": Counterpart(
        model="Ministral3ForCausalLM", config="Ministral3Config", extra=_ministral
    ),
    "granite": Counterpart(model="GraniteForCausalLM", config="GraniteConfig", extra=_granite),
    "smollm3": Counterpart(model="SmolLM3ForCausalLM", config="SmolLM3Config", extra=_smollm3),
    "seed_oss": Counterpart(
        model="SeedOssForCausalLM",
        config="SeedOssConfig",
        extra=lambda _: {"residual_dropout": 0.0},
        norms=NORMS | {"post_attention_norm": "post_attention_layernorm"},
    ),
    "qwen2": Counterpart(model="Qwen2ForCausalLM", config="Qwen2Config"),
    "qwen3": Counterpart(model="Qwen3ForCausalLM", config="Qwen3Config"),
    "qwen3moe": Counterpart(model="Qwen3MoeForCausalLM", config="Qwen3MoeConfig", extra=_qwen3moe),
    "gemma": Counterpart(
        model="GemmaForCausalLM",
        config="GemmaConfig",
        extra=lambda _: {"hidden_act": "gelu_pytorch_tanh"},
        norm_offset=1.0,
    ),
    "gemma2": Counterpart(
        model="Gemma2ForCausalLM",
        config="Gemma2Config",
        extra=_gemma2,
        norms=NORMS | _BRANCH_NORMS,
        norm_offset=1.0,
        attention="eager",
    ),
    "gemma3": Counterpart(
        model="Gemma3ForCausalLM",
        config="Gemma3TextConfig",
        extra=_gemma3,
        norms=NORMS | _BRANCH_NORMS,
        norm_offset=1.0,
    ),
    "phi3": Counterpart(
        model="Phi3ForCausalLM",
        config="Phi3Config",
        extra=_phi3,
        linears=LINEARS | {"ffn_up": "mlp.gate_up_proj"},
    ),
    "olmo2": Counterpart(
        model="Olmo2ForCausalLM", config="Olmo2Config", norms=NORMS | _BRANCH_NORMS
    ),
}
