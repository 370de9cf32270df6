"""Plain `transformers` and `peft` on the dequantized weights of a GGUF: what tuning is compared with.

Numbers are read by the `gguf` package, in numpy; nothing of ours dequantizes or multiplies here.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.tuning.architectures import config_arguments, counterpart
from baremetalrt.tuning.rotary import frequencies
from baremetalrt.weights.gguf import GGUFFile

INTERLEAVED = ("llama", "mistral3", "granite", "smollm3")


def plain_model(path: Path) -> Any:
    """A `transformers` model with every weight in memory as floats."""
    file = GGUFFile.open(path)
    _, h = read_model(file)
    entry = counterpart(h)
    assert entry is not None
    tensors = {t.name: _floats(t) for t in gguf.GGUFReader(path).tensors}
    arguments = config_arguments(entry, h)
    if h.architecture == "granite":
        arguments["logits_scaling"] = 1.0 / h.logit_scale
    if h.logit_softcap:
        arguments["final_logit_softcapping"] = h.logit_softcap
    model = getattr(transformers, entry.model)(getattr(transformers, entry.config)(**arguments))
    model.requires_grad_(False).eval()
    for i, block in enumerate(model.model.layers):
        block.self_attn.scaling = h.attention_scale
        for name, path_in_block in entry.norms.items():
            values = tensors.get(f"blk.{i}.{name}.weight")
            if values is not None:
                _set(block.get_submodule(path_in_block), "weight", values - entry.norm_offset)
        for name, path_in_block in entry.linears.items():
            for kind in ("weight", "bias"):
                values = tensors.get(f"blk.{i}.{name}.{kind}")
                if values is not None:
                    if h.architecture in INTERLEAVED and name in ("attn_q", "attn_k"):
                        values = _halves(values, h.head_size)
                    _set(block.get_submodule(path_in_block), kind, values)
        if h.num_experts:
            _set_experts(block.mlp, tensors, i)
    base = model.model
    _set(base.norm, "weight", tensors["output_norm.weight"] - entry.norm_offset)
    _set(base.embed_tokens, "weight", tensors["token_embd.weight"])
    _set(model.lm_head, "weight", tensors.get("output.weight", tensors["token_embd.weight"]))
    _set_rotary(base.rotary_emb, h, tensors)
    return model


def _floats(tensor: Any) -> NDArray[np.float32]:
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    return values.astype(np.float32).reshape(tensor.shape[::-1])


def _halves(values: NDArray[np.float32], head_size: int) -> NDArray[np.float32]:
    """Undoes the order that the conversion to GGUF gives to rows of queries and keys."""
    heads = values.reshape(-1, head_size // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(values.shape)


def _set(module: nn.Module, kind: str, values: NDArray[np.float32]) -> None:
    setattr(module, kind, nn.Parameter(torch.from_numpy(values), requires_grad=False))


def _set_experts(mlp: Any, tensors: dict[str, NDArray[np.float32]], i: int) -> None:
    _set(mlp.gate, "weight", tensors[f"blk.{i}.ffn_gate_inp.weight"])
    gate, up, down = (tensors[f"blk.{i}.ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
    _set(mlp.experts, "gate_up_proj", np.concatenate([gate, up], axis=1))
    _set(mlp.experts, "down_proj", down)


def _set_rotary(rotary: Any, h: Hyperparameters, tensors: dict[str, NDArray[np.float32]]) -> None:
    is_long = h.training_context > h.rope.original_context
    longrope = tensors.get(f"rope_factors_{'long' if is_long else 'short'}.weight")
    factors = tensors.get("rope_freqs.weight", longrope)
    kinds = {"": h.rope, "full_attention_": h.rope, "sliding_attention_": h.window_rope or h.rope}
    for prefix, rope in kinds.items():
        if hasattr(rotary, f"{prefix}inv_freq"):
            radians, scale = frequencies(rope, factors)
            setattr(rotary, f"{prefix}inv_freq", torch.from_numpy(radians))
            setattr(rotary, f"{prefix}attention_scaling", scale)
