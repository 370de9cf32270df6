"""Tiny models of architectures that libllama knows and we do not, with a vocabulary of single bytes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, INNER, HEADS, NUM_BLOCKS, CONTEXT = 64, 96, 4, 2, 1024
HEAD = WIDTH // HEADS
STATE, RANK, KERNEL = 8, 4, 4

TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
VOCABULARY_SIZE = len(TOKENS)
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


class Writer:
    """A file in the making; shapes in ggml's order, the fastest dimension first."""

    def __init__(
        self, path: Path, architecture: str, seed: int, *, tensors_in_a_part: int = 0
    ) -> None:
        self.name = architecture
        self.out = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_in_a_part)
        self._rng = np.random.default_rng(seed)

    def numbers(self, **values: Any) -> None:
        """Metadata of the architecture; `__` stands for a point."""
        for key, value in values.items():
            name = f"{self.name}.{key.replace('__', '.')}"
            if isinstance(value, float):
                self.out.add_float32(name, value)
            elif isinstance(value, list):
                self.out.add_array(name, value)
            else:
                self.out.add_uint32(name, value)

    def matrix(self, name: str, *shape: int) -> None:
        values = self._rng.standard_normal(shape[::-1]) / math.sqrt(shape[0])
        self.out.add_tensor(name, values.astype(np.float32))

    def vector(self, name: str, size: int, *, around: float) -> None:
        values = around + 0.1 * self._rng.standard_normal(size)
        self.out.add_tensor(name, values.astype(np.float32))

    def norm(self, name: str) -> None:
        """With a bias."""
        self.vector(f"{name}.weight", WIDTH, around=1.0)
        self.vector(f"{name}.bias", WIDTH, around=0.0)

    def linear(self, name: str, rows: int, columns: int) -> None:
        """With a bias."""
        self.matrix(f"{name}.weight", rows, columns)
        self.vector(f"{name}.bias", columns, around=0.0)


def _gpt2(w: Writer) -> None:
    w.numbers(attention__layer_norm_epsilon=1e-5, attention__head_count=HEADS)
    w.matrix("position_embd.weight", WIDTH, CONTEXT)
    w.norm("output_norm")
    for i in range(NUM_BLOCKS):
        p = f"blk.{i}"
        w.norm(f"{p}.attn_norm")
        w.linear(f"{p}.attn_qkv", WIDTH, 3 * WIDTH)
        w.linear(f"{p}.attn_output", WIDTH, WIDTH)
        w.norm(f"{p}.ffn_norm")
        w.linear(f"{p}.ffn_up", WIDTH, INNER)
        w.linear(f"{p}.ffn_down", INNER, WIDTH)


def _falcon(w: Writer) -> None:
    w.numbers(attention__layer_norm_epsilon=1e-5, attention__head_count=HEADS)
    w.numbers(attention__head_count_kv=1)
    w.norm("output_norm")
    for i in range(NUM_BLOCKS):
        p = f"blk.{i}"
        w.norm(f"{p}.attn_norm")
        w.matrix(f"{p}.attn_qkv.weight", WIDTH, WIDTH + 2 * HEAD)
        w.matrix(f"{p}.attn_output.weight", WIDTH, WIDTH)
        w.matrix(f"{p}.ffn_up.weight", WIDTH, INNER)
        w.matrix(f"{p}.ffn_down.weight", INNER, WIDTH)


def _mamba(w: Writer) -> None:
    """A state instead of keys and values: it cannot go back."""
    inner = 2 * WIDTH
    w.numbers(attention__layer_norm_rms_epsilon=1e-5, attention__head_count=0)
    w.numbers(ssm__conv_kernel=KERNEL, ssm__inner_size=inner)
    w.numbers(ssm__state_size=STATE, ssm__time_step_rank=RANK)
    w.vector("output_norm.weight", WIDTH, around=1.0)
    for i in range(NUM_BLOCKS):
        p = f"blk.{i}"
        w.vector(f"{p}.attn_norm.weight", WIDTH, around=1.0)
        w.matrix(f"{p}.ssm_in.weight", WIDTH, 2 * inner)
        w.linear(f"{p}.ssm_conv1d", KERNEL, inner)
        w.matrix(f"{p}.ssm_x.weight", inner, RANK + 2 * STATE)
        w.linear(f"{p}.ssm_dt", RANK, inner)
        decay = -np.tile(np.arange(1, STATE + 1, dtype=np.float32), (inner, 1))
        w.out.add_tensor(f"{p}.ssm_a", decay)
        w.vector(f"{p}.ssm_d", inner, around=1.0)
        w.matrix(f"{p}.ssm_out.weight", inner, WIDTH)


def _lfm2(w: Writer) -> None:
    """A hybrid: one block with a short convolution, one with attention."""
    w.numbers(attention__layer_norm_rms_epsilon=1e-5, attention__head_count=HEADS)
    w.numbers(attention__head_count_kv=[0, 2], shortconv__l_cache=3, rope__freq_base=1e6)
    w.vector("token_embd_norm.weight", WIDTH, around=1.0)
    for i in range(NUM_BLOCKS):
        p = f"blk.{i}"
        for name in ("attn_norm", "ffn_norm"):
            w.vector(f"{p}.{name}.weight", WIDTH, around=1.0)
        w.matrix(f"{p}.ffn_gate.weight", WIDTH, INNER)
        w.matrix(f"{p}.ffn_up.weight", WIDTH, INNER)
        w.matrix(f"{p}.ffn_down.weight", INNER, WIDTH)
        if i == 0:
            w.matrix(f"{p}.shortconv.conv.weight", 3, WIDTH)
            w.matrix(f"{p}.shortconv.in_proj.weight", WIDTH, 3 * WIDTH)
            w.matrix(f"{p}.shortconv.out_proj.weight", WIDTH, WIDTH)
            continue
        for name in ("attn_q_norm", "attn_k_norm"):
            w.vector(f"{p}.{name}.weight", HEAD, around=1.0)
        w.matrix(f"{p}.attn_q.weight", WIDTH, WIDTH)
        w.matrix(f"{p}.attn_k.weight", WIDTH, 2 * HEAD)
        w.matrix(f"{p}.attn_v.weight", WIDTH, 2 * HEAD)
        w.matrix(f"{p}.attn_output.weight", WIDTH, WIDTH)


BLOCKS: dict[str, Callable[[Writer], None]] = {
    "gpt2": _gpt2,
    "falcon": _falcon,
    "mamba": _mamba,
    "lfm2": _lfm2,
}
# Those whose texts cannot be cut.
WITH_STATE = ("mamba", "lfm2")


def write(path: Path, architecture: str, *, seed: int = 0) -> Path:
    """Writes a model that reads and writes bytes."""
    _fill(Writer(path, architecture, seed), architecture)
    return path


def write_parts(folder: Path, architecture: str) -> list[Path]:
    """The same in several files, the first of which has the header."""
    folder.mkdir()
    w = Writer(folder / "model.gguf", architecture, 0, tensors_in_a_part=12)
    _fill(w, architecture)
    return sorted(folder.iterdir())


def _fill(w: Writer, architecture: str) -> None:
    w.numbers(context_length=CONTEXT, embedding_length=WIDTH, block_count=NUM_BLOCKS)
    w.numbers(feed_forward_length=INNER)
    w.out.add_tokenizer_model("llama")
    w.out.add_token_list(TOKENS)
    w.out.add_token_scores([0.0] * VOCABULARY_SIZE)
    w.out.add_token_types([_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256])
    w.matrix("token_embd.weight", WIDTH, VOCABULARY_SIZE)
    w.matrix("output.weight", WIDTH, VOCABULARY_SIZE)
    BLOCKS[architecture](w)
    w.out.write_header_to_file()
    w.out.write_kv_data_to_file()
    w.out.write_tensors_to_file()
    w.out.close()
