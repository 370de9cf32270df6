"""Tiny models with random weights, written by the `gguf` package, quantized by ggml."""

import ctypes
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from baremetalrt.native.library import load_library
from baremetalrt.weights.store import default_model

_TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
    "Q4_1": gguf.GGMLQuantizationType.Q4_1,
    "Q5_0": gguf.GGMLQuantizationType.Q5_0,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_K": gguf.GGMLQuantizationType.Q4_K,
    "Q6_K": gguf.GGMLQuantizationType.Q6_K,
    "Q5_1": gguf.GGMLQuantizationType.Q5_1,
    "Q2_K": gguf.GGMLQuantizationType.Q2_K,
    "Q3_K": gguf.GGMLQuantizationType.Q3_K,
    "Q5_K": gguf.GGMLQuantizationType.Q5_K,
    "IQ4_NL": gguf.GGMLQuantizationType.IQ4_NL,
    "IQ4_XS": gguf.GGMLQuantizationType.IQ4_XS,
}


@dataclass(frozen=True)
class TinyModel:
    """What to write. Matrices are `weights`-typed, norms and biases always F32."""

    architecture: str
    weights: str = "F32"
    num_blocks: int = 2
    width: int = 64
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 16
    feed_forward_width: int = 96
    vocabulary_size: int = 160
    context: int = 4096
    biases: bool = False
    tied: bool = False
    num_experts: int = 0
    num_experts_used: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    rope_factors: tuple[str, ...] = ()
    rope_dims: int | None = None
    seed: int = 0


def write(model: TinyModel, path: Path) -> Path:
    """Writes a GGUF file without a vocabulary: tokens are given as ids."""
    writer = gguf.GGUFWriter(path, model.architecture)
    write_header(model, writer)
    writer.add_tokenizer_model("no_vocab")
    write_tensors(model, writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_talking(
    path: Path, marks: Mapping[str, int] | None = None, *, has_template: bool = True
) -> Path:
    """A tiny model with the vocabulary and chat template of the embedded default: it reads and writes
    texts, of no sense, in milliseconds. `marks`: tokens that mean something, as `fim_pre`."""
    reader = gguf.GGUFReader(default_model().path)
    fields = {name: f for name, f in reader.fields.items() if name.startswith("tokenizer.")}
    size = len(fields["tokenizer.ggml.tokens"].data)
    model = TinyModel("llama", weights="Q8_0", vocabulary_size=size, tied=True)
    writer = gguf.GGUFWriter(path, model.architecture)
    write_header(model, writer)
    for name, field_ in fields.items():
        if name == "tokenizer.chat_template" and not has_template:
            continue
        kind = field_.types[0]
        part = field_.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field_.contents(), kind, part)
    for name, token in (marks or {}).items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    write_tensors(model, writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_header(model: TinyModel, writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.num_blocks)
    writer.add_feed_forward_length(model.feed_forward_width)
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_key_length(model.head_size)
    writer.add_value_length(model.head_size)
    writer.add_rope_dimension_count(model.rope_dims or model.head_size)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(model.vocabulary_size)
    if model.num_experts:
        writer.add_expert_count(model.num_experts)
        writer.add_expert_used_count(model.num_experts_used)
        writer.add_expert_feed_forward_length(model.feed_forward_width)
    for key, value in model.metadata.items():
        _add(writer, f"{model.architecture}.{key}", value)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_tensors(model: TinyModel, writer: gguf.GGUFWriter) -> None:
    rng = np.random.default_rng(model.seed)

    def matrix(name: str, *shape: int) -> None:
        """`shape` in ggml's order: the fastest dimension first."""
        values = rng.standard_normal(shape[::-1]).astype(np.float32) / math.sqrt(shape[0])
        _add_tensor(writer, f"{name}.weight", values, model.weights)

    def vector(name: str, size: int, *, around: float) -> None:
        values = (around + 0.1 * rng.standard_normal(size)).astype(np.float32)
        writer.add_tensor(name, values)

    m = model
    matrix("token_embd", m.width, m.vocabulary_size)
    vector("output_norm.weight", m.width, around=1.0)
    if not m.tied:
        matrix("output", m.width, m.vocabulary_size)
    for name in m.rope_factors:
        size = (m.rope_dims or m.head_size) // 2
        writer.add_tensor(f"{name}.weight", (1.0 + rng.random(size)).astype(np.float32))
    for i in range(m.num_blocks):
        _BLOCKS[m.architecture](m, f"blk.{i}", matrix, vector)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, values: NDArray[np.float32], type_name: str
) -> None:
    if type_name == "F32":
        writer.add_tensor(name, values)
    elif type_name == "F16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        kind = _TYPES[type_name]
        writer.add_tensor(name, quantize(values, type_name), raw_dtype=kind)


def quantize(values: NDArray[np.float32], type_name: str) -> NDArray[np.uint8]:
    """Rows quantized by ggml itself."""
    library = ctypes.CDLL(str(load_library().path))
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [
        ctypes.c_int32,
        *[ctypes.c_void_p] * 2,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    kind = _TYPES[type_name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    values = np.ascontiguousarray(values)
    row = values.shape[-1] // block * size
    out = np.zeros((*values.shape[:-1], row), dtype=np.uint8)
    rows = values.size // values.shape[-1]
    written = chunk(kind, values.ctypes.data, out.ctypes.data, 0, rows, values.shape[-1], None)
    assert written == out.nbytes
    return out


_Matrix = Callable[..., None]


def _attention(m: TinyModel, p: str, matrix: _Matrix, vector: _Matrix) -> None:
    q, kv = m.num_heads * m.head_size, m.num_kv_heads * m.head_size
    for name, size in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
        matrix(f"{p}.{name}", m.width, size)
        if m.biases:
            vector(f"{p}.{name}.bias", size, around=0.0)
    matrix(f"{p}.attn_output", q, m.width)


def _feed_forward(m: TinyModel, p: str, matrix: _Matrix) -> None:
    matrix(f"{p}.ffn_gate", m.width, m.feed_forward_width)
    matrix(f"{p}.ffn_up", m.width, m.feed_forward_width)
    matrix(f"{p}.ffn_down", m.feed_forward_width, m.width)


def _experts(m: TinyModel, p: str, matrix: _Matrix) -> None:
    matrix(f"{p}.ffn_gate_inp", m.width, m.num_experts)
    matrix(f"{p}.ffn_gate_exps", m.width, m.feed_forward_width, m.num_experts)
    matrix(f"{p}.ffn_up_exps", m.width, m.feed_forward_width, m.num_experts)
    matrix(f"{p}.ffn_down_exps", m.feed_forward_width, m.width, m.num_experts)


def _norms(m: TinyModel, p: str, vector: _Matrix, *names: str) -> None:
    for name in names:
        vector(f"{p}.{name}.weight", m.width, around=1.0)


def _llama(m: TinyModel, p: str, matrix: _Matrix, vector: _Matrix) -> None:
    _norms(m, p, vector, "attn_norm", "ffn_norm")
    _attention(m, p, matrix, vector)
    if m.num_experts:
        _experts(m, p, matrix)
    else:
        _feed_forward(m, p, matrix)


def _seed_oss(m: TinyModel, p: str, matrix: _Matrix, vector: _Matrix) -> None:
    _norms(m, p, vector, "attn_norm", "post_attention_norm")
    _attention(m, p, matrix, vector)
    _feed_forward(m, p, matrix)


def _head_norms(m: TinyModel, p: str, vector: _Matrix) -> None:
    vector(f"{p}.attn_q_norm.weight", m.head_size, around=1.0)
    vector(f"{p}.attn_k_norm.weight", m.head_size, around=1.0)


def _qwen3(m: TinyModel, p: str, matrix: _Matrix, vector: _Matrix) -> None:
    _llama(m, p, matrix, vector)
    _head_norms(m, p, vector)


def _gemma2(m: TinyModel, p: str, matrix: _Matrix, vector: _Matrix) -> None:
    _llama(m, p, matrix, vector)
    _norms(m, p, vector, "post_attention_norm", "post_ffw_norm")


def _gemma3(m: TinyModel, p: str, matrix: _Matrix, vector: _Matrix) -> None:
    _gemma2(m, p, matrix, vector)
    _head_norms(m, p, vector)


def _phi3(m: TinyModel, p: str, matrix: _Matrix, vector: _Matrix) -> None:
    _norms(m, p, vector, "attn_norm", "ffn_norm")
    q, kv = m.num_heads * m.head_size, m.num_kv_heads * m.head_size
    matrix(f"{p}.attn_qkv", m.width, q + 2 * kv)
    matrix(f"{p}.attn_output", q, m.width)
    matrix(f"{p}.ffn_up", m.width, 2 * m.feed_forward_width)
    matrix(f"{p}.ffn_down", m.feed_forward_width, m.width)


def _olmo2(m: TinyModel, p: str, matrix: _Matrix, vector: _Matrix) -> None:
    _norms(m, p, vector, "post_attention_norm", "post_ffw_norm")
    _attention(m, p, matrix, vector)
    vector(f"{p}.attn_q_norm.weight", m.num_heads * m.head_size, around=1.0)
    vector(f"{p}.attn_k_norm.weight", m.num_kv_heads * m.head_size, around=1.0)
    _feed_forward(m, p, matrix)


_BLOCKS: dict[str, Callable[[TinyModel, str, _Matrix, _Matrix], None]] = {
    "llama": _llama,
    "mistral3": _llama,
    "granite": _llama,
    "smollm3": _llama,
    "seed_oss": _seed_oss,
    "qwen2": _llama,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3,
    "gemma": _llama,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "olmo2": _olmo2,
}
