"""Models of a given size with seeded weights, for benchmarks of memory: what they say makes no sense."""

from pathlib import Path

import gguf
import numpy as np

from baremetalrt.core.places import home
from baremetalrt.weights.store import default_model

_Q4_0 = gguf.GGMLQuantizationType.Q4_0
_BLOCK_WIDTH, _BLOCK_BYTES = 32, 18


def dense(num_blocks: int = 24, width: int = 2048, feed_forward: int = 8192) -> Path:
    """A llama of about a gigabyte, with the vocabulary of the embedded default."""
    return _write(
        f"dense-{num_blocks}-{width}-{feed_forward}", num_blocks, width, feed_forward, 0, 0
    )


def mixture(
    num_blocks: int = 12, width: int = 1024, expert: int = 512, num_experts: int = 64, used: int = 4
) -> Path:
    """A mixture of experts of about 750 MB whose routers prefer some, as those of trained ones do."""
    name = f"mixture-{num_blocks}-{width}-{expert}-{num_experts}"
    return _write(name, num_blocks, width, expert, num_experts, used)


def _write(
    name: str, num_blocks: int, width: int, feed_forward: int, num_experts: int, used: int
) -> Path:
    path = home() / "benchmarks" / f"{name}.gguf"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    default = default_model()
    assert default is not None
    reader = gguf.GGUFReader(default.path)
    architecture = "qwen3moe" if num_experts else "llama"
    writer = gguf.GGUFWriter(path.with_suffix(".new"), architecture, use_temp_file=False)
    heads, kv_heads, head = width // 64, max(1, width // 256), 64
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_block_count(num_blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    if num_experts:
        writer.add_expert_count(num_experts)
        writer.add_expert_used_count(used)
        writer.add_expert_feed_forward_length(feed_forward)
    size = 0
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            kind, part = field.types[0], field.types[-1]
            is_array = kind == gguf.GGUFValueType.ARRAY
            writer.add_key_value(key, field.contents(), kind, part if is_array else None)
            if key == "tokenizer.ggml.tokens":
                size = len(field.data)
    writer.add_vocab_size(size)

    def matrix(tensor: str, *shape: int) -> None:
        """`shape` with the fastest dimension last; scales make products about as large as rows."""
        blocks = int(np.prod(shape)) // _BLOCK_WIDTH
        data = rng.integers(0, 256, (blocks, _BLOCK_BYTES), np.uint8)
        scale = np.float16(0.25 / np.sqrt(shape[-1]))
        data[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
        rows = data.reshape(*shape[:-1], shape[-1] // _BLOCK_WIDTH * _BLOCK_BYTES)
        writer.add_tensor(tensor, rows, raw_dtype=_Q4_0)

    def ones(tensor: str, width: int) -> None:
        writer.add_tensor(tensor, np.ones(width, np.float32))

    matrix("token_embd.weight", size, width)
    ones("output_norm.weight", width)
    for i in range(num_blocks):
        ones(f"blk.{i}.attn_norm.weight", width)
        ones(f"blk.{i}.ffn_norm.weight", width)
        matrix(f"blk.{i}.attn_q.weight", heads * head, width)
        matrix(f"blk.{i}.attn_k.weight", kv_heads * head, width)
        matrix(f"blk.{i}.attn_v.weight", kv_heads * head, width)
        matrix(f"blk.{i}.attn_output.weight", width, heads * head)
        if num_experts:
            ones(f"blk.{i}.attn_q_norm.weight", head)
            ones(f"blk.{i}.attn_k_norm.weight", head)
            # Longer rows win more often: about as uneven as routers of trained models are.
            preference = 1 / np.arange(1, num_experts + 1) ** 0.5
            router = rng.standard_normal((num_experts, width)) * preference[:, None]
            writer.add_tensor(
                f"blk.{i}.ffn_gate_inp.weight", rng.permutation(router).astype(np.float32)
            )
            for kind in ("gate", "up"):
                matrix(f"blk.{i}.ffn_{kind}_exps.weight", num_experts, feed_forward, width)
            matrix(f"blk.{i}.ffn_down_exps.weight", num_experts, width, feed_forward)
        else:
            for kind in ("gate", "up"):
                matrix(f"blk.{i}.ffn_{kind}.weight", feed_forward, width)
            matrix(f"blk.{i}.ffn_down.weight", width, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").rename(path)
    return path
