"""GGUF files byte by byte, so that every length and every offset in them can be a lie.

The `gguf` package writes only what makes sense.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?"}
_FORMATS |= {U64: "Q", I64: "q", F64: "d"}
ALIGNMENT = 32
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def text(value: str | bytes) -> bytes:
    """A string with its length before it."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def scalar(type_: int, value: float) -> bytes:
    return struct.pack(f"<I{_FORMATS[type_]}", type_, value)


def string(value: str | bytes) -> bytes:
    return struct.pack("<I", STRING) + text(value)


def array(type_: int, count: int, payload: bytes) -> bytes:
    """An array that claims `count` elements, whatever `payload` holds."""
    return struct.pack("<IIQ", ARRAY, type_, count) + payload


def strings(values: Iterable[str | bytes]) -> bytes:
    encoded = [text(v) for v in values]
    return array(STRING, len(encoded), b"".join(encoded))


def numbers(type_: int, values: Iterable[float]) -> bytes:
    listed = list(values)
    return array(type_, len(listed), struct.pack(f"<{len(listed)}{_FORMATS[type_]}", *listed))


@dataclass
class RawTensor:
    """What the header says of a tensor, and its bytes, whether they fit or not."""

    name: str
    shape: tuple[int, ...]
    data: bytes
    type: int = 0
    num_dims: int | None = None
    # from the start of the data section; None: where the bytes really are
    offset: int | None = None


@dataclass
class RawFile:
    """A file to be written; None as a count means the true one."""

    values: list[tuple[str | bytes, bytes]] = field(default_factory=list)
    tensors: list[RawTensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_values: int | None = None

    def set(self, key: str, value: bytes) -> Self:
        """Replaces the value under `key`, or adds one."""
        keys = [k for k, _ in self.values]
        if key in keys:
            self.values[keys.index(key)] = (key, value)
        else:
            self.values.append((key, value))
        return self

    def drop(self, key: str) -> Self:
        self.values = [(k, v) for k, v in self.values if k != key]
        return self

    def tensor(self, name: str) -> RawTensor:
        return next(t for t in self.tensors if t.name == name)

    def header(self) -> list[bytes]:
        """The header in pieces: magic, version, counts, keys, values, tensor infos, padding."""
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_values = len(self.values) if self.num_values is None else self.num_values
        pieces = [self.magic, struct.pack("<I", self.version)]
        pieces += [struct.pack("<Q", num_tensors), struct.pack("<Q", num_values)]
        for key, value in self.values:
            pieces += [text(key), value]
        at = 0
        for t in self.tensors:
            num_dims = len(t.shape) if t.num_dims is None else t.num_dims
            pieces.append(text(t.name) + struct.pack("<I", num_dims))
            pieces.append(struct.pack(f"<{len(t.shape)}Q", *t.shape))
            pieces.append(struct.pack("<IQ", t.type, at if t.offset is None else t.offset))
            at += _padded(len(t.data))
        size = sum(map(len, pieces))
        return [*pieces, bytes(_padded(size) - size)]

    def to_bytes(self) -> bytes:
        data = (t.data + bytes(_padded(len(t.data)) - len(t.data)) for t in self.tensors)
        return b"".join((*self.header(), *data))


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


# A whole model, small enough to be written and loaded in a few milliseconds.

WIDTH, HEADS, KV_HEADS, HEAD_SIZE, FEED_FORWARD, BLOCKS = 32, 4, 2, 8, 48, 2


def byte_pairs() -> list[tuple[str, bytes]]:
    """A vocabulary of single bytes, under the names that GPT-2 gives them, and two control tokens."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    tokens = [chr(b) for b in shown] + [chr(256 + i) for i in range(len(hidden))]
    tokens += ["he", "<|start|>", "<|end|>"]
    return [
        ("tokenizer.ggml.model", string("gpt2")),
        ("tokenizer.ggml.pre", string("smollm")),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", numbers(I32, [NORMAL] * 257 + [CONTROL] * 2)),
        ("tokenizer.ggml.merges", strings(["h e"])),
        ("tokenizer.ggml.bos_token_id", scalar(U32, 257)),
        ("tokenizer.ggml.eos_token_id", scalar(U32, 258)),
    ]


def sentencepiece() -> list[tuple[str, bytes]]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256
    return [
        ("tokenizer.ggml.model", string("llama")),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.scores", numbers(F32, [-float(i) for i in range(len(tokens))])),
        ("tokenizer.ggml.token_type", numbers(I32, types)),
        ("tokenizer.ggml.bos_token_id", scalar(U32, 1)),
        ("tokenizer.ggml.eos_token_id", scalar(U32, 2)),
    ]


def good_model(
    vocabulary: Callable[[], list[tuple[str, bytes]]] = byte_pairs, vocabulary_size: int = 259
) -> RawFile:
    """A model that loads and answers: what every case begins with."""
    file = RawFile()
    file.values = [
        ("general.architecture", string("llama")),
        ("llama.block_count", scalar(U32, BLOCKS)),
        ("llama.context_length", scalar(U32, 512)),
        ("llama.embedding_length", scalar(U32, WIDTH)),
        ("llama.feed_forward_length", scalar(U32, FEED_FORWARD)),
        ("llama.attention.head_count", scalar(U32, HEADS)),
        ("llama.attention.head_count_kv", scalar(U32, KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", scalar(F32, 1e-5)),
        ("llama.rope.dimension_count", scalar(U32, HEAD_SIZE)),
        ("llama.rope.freq_base", scalar(F32, 10000.0)),
        *vocabulary(),
    ]
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        data = rng.standard_normal(int(np.prod(shape)), dtype=np.float32) / 4
        file.tensors.append(RawTensor(f"{name}.weight", shape, data.tobytes()))

    tensor("token_embd", WIDTH, vocabulary_size)
    tensor("output_norm", WIDTH)
    for i in range(BLOCKS):
        for name, *shape in (
            ("attn_norm", WIDTH),
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH, KV_HEADS * HEAD_SIZE),
            ("attn_v", WIDTH, KV_HEADS * HEAD_SIZE),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_norm", WIDTH),
            ("ffn_gate", WIDTH, FEED_FORWARD),
            ("ffn_up", WIDTH, FEED_FORWARD),
            ("ffn_down", FEED_FORWARD, WIDTH),
        ):
            tensor(f"blk.{i}.{name}", *shape)
    return file
