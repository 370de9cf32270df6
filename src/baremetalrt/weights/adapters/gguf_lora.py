"""Adapters as llama.cpp has them: a GGUF file with `<tensor>.lora_a` and `<tensor>.lora_b`.

Of DoRA there is `<tensor>.lora_row_scale`, too, which only we read; llama.cpp refuses such a file rather
than compute something else.

Source: `llama-adapter.cpp` and `convert_lora_to_gguf.py` for keys, names and shapes. In the file,
`lora_a` is (D, R) and `lora_b` (R, F), fastest dimension first; of the embedding they are exchanged and
transposed, because rows of it are looked up.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import MIB, format_bytes
from baremetalrt.native.tensor_types import can_dequantize, dequantize
from baremetalrt.weights.adapters.adapter import (
    MAX_RANK,
    Adapter,
    LowRank,
    bad,
    checked,
)
from baremetalrt.weights.gguf import EMBEDDING, GGUFFile, TensorInfo
from baremetalrt.weights.writing import Value, write_gguf

# Ours: the v2 root of the base file, by which torrents and peers name a model, too.
BASE_CONTENT_ID: Final = "baremetalrt.base.content_id"
BASE_NAME: Final = "general.base_model.0.name"
MAX_ADAPTER_BYTES: Final = 2048 * MIB
_ALPHA: Final = "adapter.lora.alpha"
_FACTORS: Final = ("lora_a", "lora_b")
_ROW_SCALE: Final = "lora_row_scale"


def is_adapter(file: GGUFFile) -> bool:
    """Whether a GGUF file says that it holds an adapter."""
    return file.text("general.type") == "adapter"


def read_gguf_lora(path: Path, *, name: str | None = None) -> Adapter:
    """Reads a GGUF LoRA, every number of it.

    Raises:
        UsageError: there is no such file, or it holds something else.
        IntegrityError: it is damaged, incomplete, or nothing that can be computed with.
    """
    return from_gguf(GGUFFile.open(path), name=name or path.stem)


def from_gguf(file: GGUFFile, *, name: str) -> Adapter:
    """The adapter in a file whose header is read; raises like `read_gguf_lora`."""
    source = str(file.path)
    if not is_adapter(file):
        raise UsageError(
            f"{file.path.name} is not an adapter",
            code="adapter.type",
            parameter="adapter",
            hint="models are named in the place of the model, adapters after --adapter",
        )
    kind = file.text("adapter.type")
    if kind != "lora":
        raise UsageError(
            f"{file.path.name} is an adapter of type {kind!r}, only 'lora' is supported",
            code="adapter.type",
            parameter="adapter",
        )
    if file.get("adapter.alora.invocation_tokens") is not None:
        raise UsageError(
            f"{file.path.name} is an activated LoRA, which waits for a phrase: not supported",
            code="adapter.type",
            parameter="adapter",
        )
    alpha = file.get(_ALPHA)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise bad(source, f"has no {_ALPHA}")
    num_bytes = sum(t.num_bytes for t in file.tensors.values())
    if num_bytes > MAX_ADAPTER_BYTES:
        raise bad(source, f"is larger than {format_bytes(MAX_ADAPTER_BYTES)}")
    missing = file.missing(t.byte_range for t in file.tensors.values())
    if missing:
        raise bad(
            source,
            f"lacks {format_bytes(sum(len(r) for r in missing))} at its end",
            hint="the download is incomplete; fetch it again",
        )
    parts = _parts(file, source)
    return checked(
        Adapter(
            name=name,
            architecture=file.architecture,
            alpha=float(alpha),
            matrices={target: _load(file, target, found) for target, found in parts.items()},
            base_content_id=file.text(BASE_CONTENT_ID),
            base_name=file.text(BASE_NAME),
        ),
        source=source,
    )


def _parts(file: GGUFFile, source: str) -> dict[str, dict[str, TensorInfo]]:
    """What there is for each target, with shapes and types compared before anything is read."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    for name, info in file.tensors.items():
        target, _, which = name.rpartition(".")
        if which not in (*_FACTORS, _ROW_SCALE):
            raise bad(source, f"has a tensor {name}, which is no factor of a LoRA")
        if not can_dequantize(info.type):
            raise bad(source, f"has {name} in the type {info.type_name}")
        parts.setdefault(target, {})[which] = info
    for target, found in parts.items():
        if not all(which in found for which in _FACTORS):
            raise bad(source, f"has only one factor for {target}")
        a, b = (found[which] for which in _FACTORS)
        rank = a.shape[0] if target == EMBEDDING else a.shape[1]
        if not 1 <= rank <= MAX_RANK:
            raise bad(source, f"has rank {rank} for {target}, expected 1 to {MAX_RANK}")
        if b.shape[0] != rank or a.shape[3] != 1 or a.shape[2:] != b.shape[2:]:
            shapes = f"{a.describe_shape()} and {b.describe_shape()}"
            raise bad(source, f"has factors of {shapes} for {target}, which cannot be multiplied")
    return parts


def _load(file: GGUFFile, target: str, found: Mapping[str, TensorInfo]) -> LowRank:
    a, b = (_values(file, found[which]) for which in _FACTORS)
    if target == EMBEDDING:
        a, b = np.ascontiguousarray(b.T), a
    scale = found.get(_ROW_SCALE)
    return LowRank(a, b, None if scale is None else _values(file, scale).reshape(-1))


def _values(file: GGUFFile, info: TensorInfo) -> NDArray[np.float32]:
    with file.paths[info.file].open("rb") as f:
        f.seek(info.start)
        raw = np.frombuffer(f.read(info.num_bytes), np.uint8)
    if raw.nbytes != info.num_bytes:
        raise bad(str(file.path), f"ends within {info.name}")
    # A factor of rank 1 is a vector for ggml: dimensions are kept, not trimmed.
    shape = info.shape[:3] if info.shape[2] > 1 else info.shape[:2]
    return dequantize(raw, info.type, info.shape[0]).reshape(shape[::-1])


def write_gguf_lora(adapter: Adapter, path: Path, *, title: str | None = None) -> None:
    """Writes an adapter in single precision, as a file that llama.cpp loads unless it is DoRA.

    The same adapter gives the same bytes. `title` is what people are shown.
    """
    values: dict[str, Value] = {
        "general.type": "adapter",
        "general.architecture": adapter.architecture,
        "general.name": title or adapter.name,
        "general.file_type": 0,
        "adapter.type": "lora",
        _ALPHA: adapter.alpha,
    }
    if adapter.base_name:
        values["general.base_model.count"] = 1
        values[BASE_NAME] = adapter.base_name
    if adapter.base_content_id:
        values[BASE_CONTENT_ID] = adapter.base_content_id
    tensors: dict[str, NDArray[np.float32]] = {}
    for target in sorted(adapter.matrices):
        m = adapter.matrices[target]
        a, b = (m.b_FR, m.a_RD.T) if target == EMBEDDING else (m.a_RD, m.b_FR)
        tensors |= {f"{target}.{which}": x for which, x in zip(_FACTORS, (a, b), strict=True)}
        if m.row_scale_F is not None:
            tensors[f"{target}.{_ROW_SCALE}"] = m.row_scale_F
    with path.open("wb") as f:
        write_gguf(f, values, tensors)
