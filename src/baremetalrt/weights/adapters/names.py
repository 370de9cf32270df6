"""How modules of `transformers` and tensors of GGUF are called, and where their rows differ.

Source: `tensor_mapping.py` and `convert_hf_to_gguf.py` of llama.cpp; module names from `transformers`.
"""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.weights.gguf import GGUFFile

# Queries and keys are stored for interleaved rotary positions: rows (2, S/2) of each head of size S
# become (S/2, 2). Elsewhere rows are as `transformers` has them.
PERMUTED: Final = frozenset({"llama", "mistral3", "granite", "smollm3"})
_ATTENTION: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_FEED_FORWARD: Final = {
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PLAIN: Final = _ATTENTION | _FEED_FORWARD
_MODULES: Final[dict[str, dict[str, str]]] = {
    "llama": _PLAIN | {"block_sparse_moe.gate": "ffn_gate_inp"},
    "mistral3": _PLAIN,
    "granite": _PLAIN,
    "smollm3": _PLAIN,
    "seed_oss": _PLAIN,
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
    "qwen3moe": _ATTENTION | {"mlp.gate": "ffn_gate_inp"},
    "gemma": _PLAIN,
    "gemma2": _PLAIN,
    "gemma3": _PLAIN,
    "olmo2": _PLAIN,
    "phi3": {
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
}
# Experts are one tensor in GGUF and one module each in older releases of `transformers`.
_EXPERTS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "llama": (
        "block_sparse_moe.experts",
        {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"},
    ),
    "qwen3moe": (
        "mlp.experts",
        {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"},
    ),
}
_OUTER: Final = {"lm_head": "output", "embed_tokens": "token_embd"}
# `base_model.model.` is peft's; what follows depends on which class wraps the language model.
_PREFIX: Final = r"(?:base_model\.model\.)?(?:(?:model|language_model|text_model)\.)*"
_LAYER: Final = re.compile(_PREFIX + r"layers\.(\d{1,4})\.(.{1,100})")
_TOP: Final = re.compile(_PREFIX + r"(lm_head|embed_tokens)")
_EXPERT: Final = re.compile(r"(.{1,60})\.(\d{1,4})\.(\w{1,20})")


_SAVED: Final = re.compile(_PREFIX + r"(lm_head|embed_tokens)(?:\.base_layer)?\.(weight|bias)")


@dataclass(frozen=True)
class Target:
    """A tensor of GGUF, and which expert's part of it; None for the whole."""

    tensor: str
    expert: int | None = None


def known_architectures() -> frozenset[str]:
    """Those whose modules have names here."""
    return frozenset(_MODULES)


def target_of(module: str, architecture: str) -> Target | None:
    """The tensor that a module of `transformers` became; None if it has no place in GGUF."""
    top = _TOP.fullmatch(module)
    if top:
        return Target(f"{_OUTER[top[1]]}.weight")
    layer = _LAYER.fullmatch(module)
    if not layer:
        return None
    block, inner = int(layer[1]), layer[2]
    name = _MODULES.get(architecture, {}).get(inner)
    if name is not None:
        return Target(f"blk.{block}.{name}.weight")
    folder, experts = _EXPERTS.get(architecture, ("", {}))
    expert = _EXPERT.fullmatch(inner)
    if expert and expert[1] == folder and expert[3] in experts:
        return Target(f"blk.{block}.{experts[expert[3]]}.weight", int(expert[2]))
    return None


def saved_of(name: str) -> str | None:
    """The tensor that a saved embedding or head became; None if a tensor of a folder is neither."""
    saved = _SAVED.fullmatch(name)
    return f"{_OUTER[saved[1]]}.{saved[2]}" if saved else None


def module_of(tensor: str, architecture: str) -> str | None:
    """The module that a tensor came from, as a causal language model names it; None for experts."""
    for module, name in _OUTER.items():
        if tensor == f"{name}.weight":
            return module if module == "lm_head" else f"model.{module}"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor)
    if not match:
        return None
    for module, name in _MODULES.get(architecture, {}).items():
        if name == match[2]:
            return f"model.layers.{match[1]}.{module}"
    return None


def head_size(file: GGUFFile) -> int:
    """How many rows of the queries' matrix belong to one head; 0 if the header does not say."""
    prefix = file.architecture
    size = file.get(f"{prefix}.attention.key_length")
    if isinstance(size, int) and size > 0:
        return size
    width, heads = (
        file.get(f"{prefix}.embedding_length"),
        file.get(f"{prefix}.attention.head_count"),
    )
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        return width // heads
    return 0


def is_permuted(tensor: str, architecture: str) -> bool:
    """Whether GGUF has the rows of this matrix in another order."""
    return architecture in PERMUTED and tensor.endswith((".attn_q.weight", ".attn_k.weight"))


def permute(rows: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Rows in the order of `transformers`, put into that of GGUF, head by head."""
    split = rows.reshape(-1, 2, size // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def unpermute(rows: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The other way round."""
    split = rows.reshape(-1, size // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)
