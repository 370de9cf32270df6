"""A new model file with adapters added to its weights.

Every tensor keeps its type, its size and its place, so the header is copied as it is, with a line more
that says what was merged. Adapted matrices are dequantized, added to and quantized again some rows at a
time; all else is copied byte for byte. Memory is bounded by a few such pieces.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

import numpy as np

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.core.units import MIB, format_bytes
from baremetalrt.native.tensor_types import can_dequantize, can_quantize, dequantize, quantize
from baremetalrt.weights.adapters.adapter import Adapter, LowRank, check_fits, combined
from baremetalrt.weights.adapters.rows import read_rows
from baremetalrt.weights.gguf import GGUFFile, TensorInfo
from baremetalrt.weights.writing import DEFAULT_ALIGNMENT, copy_start

MERGED_KEY: Final = "baremetalrt.merged"
_PIECE_BYTES: Final = 8 * MIB


def merge(
    file: GGUFFile,
    adapters: Sequence[tuple[Adapter, float]],
    target: Path,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> float:
    """Writes `file` with these adapters, each times its weight, to `target`.

    Returns the share of what they change that is left: steps of four bits swallow most of a small one.

    Raises:
        UsageError: an adapter does not fit, the file is split or merged before, or one of its types
            cannot be made from numbers alone; or `target` exists.
        CapacityError: the disk is full.
        IntegrityError: the file ends before its tensors do.
    """
    for adapter, _ in adapters:
        check_fits(adapter, file)
    _check_mergeable(file, adapters, target)
    source = file.path
    size = source.stat().st_size
    free = shutil.disk_usage(target.absolute().parent).free
    if free < size + MIB:
        raise CapacityError(
            f"{target.absolute().parent} has {format_bytes(free)} left, the merged model needs "
            f"{format_bytes(size)}",
            code="disk.full",
            needed=size,
            available=free,
            hint="write it to another disk with --output",
        )
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with disk_errors(target):
            # It holds what the adapter learned: its owner decides who else may read it.
            temporary.touch(mode=0o600)
            with source.open("rb") as old, temporary.open("wb") as new:
                kept = _write(file, adapters, old, new, on_progress)
                new.flush()
                os.fsync(new.fileno())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return kept


def _check_mergeable(
    file: GGUFFile, adapters: Sequence[tuple[Adapter, float]], target: Path
) -> None:
    if target.exists():
        raise UsageError(f"{target} exists already", code="file.exists", parameter="output")
    if len(file.paths) > 1:
        raise UsageError(
            f"{file.path.name} is split into {len(file.paths)} parts: only whole files are merged",
            code="merge.split",
            hint="join the parts first, with llama-gguf-split --merge",
        )
    if file.get(MERGED_KEY) is not None:
        raise UsageError(
            f"{file.path.name} holds a merged adapter already",
            code="merge.twice",
            hint="merge both adapters at once into the base",
        )
    for name in {name for adapter, _ in adapters for name in adapter.matrices}:
        info = file.tensors[name]
        if not (can_dequantize(info.type) and can_quantize(info.type)):
            raise UsageError(
                f"{name} is of the type {info.type_name}, which needs statistics to be made again",
                code="merge.type",
                parameter="model",
                hint="merge into another quantization of the model",
            )
    missing = file.missing(t.byte_range for t in file.tensors.values())
    if missing:
        raise IntegrityError(
            f"{file.path.name} is incomplete", code="gguf.truncated", source=str(file.path)
        )


def _write(
    file: GGUFFile,
    adapters: Sequence[tuple[Adapter, float]],
    old: IO[bytes],
    new: IO[bytes],
    on_progress: Callable[[float], None],
) -> float:
    kept, wanted = 0.0, 0.0
    total = os.fstat(old.fileno()).st_size
    merged = " + ".join(f"{adapter.name} * {scale:g}" for adapter, scale in adapters)[:1000]
    copy_start(old, new, MERGED_KEY, merged, alignment=_alignment(file))
    for info in sorted(file.tensors.values(), key=lambda t: t.start):
        m = combined(adapters, info.name)
        if m is None:
            continue
        _copy(old, new, info.start - old.tell(), on_progress, total)
        # Of experts, one matrix after the other: each factor has one more dimension in front.
        for expert in range(info.shape[2]):
            one = LowRank(m.a_RD[expert], m.b_FR[expert]) if m.a_RD.ndim == 3 else m
            along, whole = _merge_matrix(info, one, old, new)
            kept, wanted = kept + along, wanted + whole
            on_progress(old.tell() / total)
    _copy(old, new, total - old.tell(), on_progress, total)
    return kept / wanted if wanted else 1.0


def _merge_matrix(
    info: TensorInfo, m: LowRank, old: IO[bytes], new: IO[bytes]
) -> tuple[float, float]:
    """How far the written rows went in the direction of the change, and its length squared."""
    along, whole = 0.0, 0.0
    for first, rows_ND in read_rows(old, info, len(m.b_FR)):
        end = first + len(rows_ND)
        values = rows_ND * (1 if m.row_scale_F is None else m.row_scale_F[first:end, None])
        values += m.b_FR[first:end] @ m.a_RD
        if not np.isfinite(values).all():
            raise UsageError(
                f"{info.name} would hold numbers that are not finite",
                code="merge.overflow",
                hint="merge with a smaller weight",
            )
        written = quantize(values, info.type)
        new.write(written.data)
        change = values - rows_ND
        came = dequantize(written, info.type, info.shape[0]) - rows_ND
        along += float(np.vdot(change, came))
        whole += float(np.vdot(change, change))
    return along, whole


def _copy(
    old: IO[bytes], new: IO[bytes], count: int, on_progress: Callable[[float], None], total: int
) -> None:
    while count:
        data = old.read(min(count, _PIECE_BYTES))
        if not data:
            raise OSError("the base ends early")
        new.write(data)
        count -= len(data)
        on_progress(old.tell() / total)


def _alignment(file: GGUFFile) -> int:
    found = file.get("general.alignment")
    return found if isinstance(found, int) and found > 0 else DEFAULT_ALIGNMENT
