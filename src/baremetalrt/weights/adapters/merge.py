"""A new model file with adapters added to its weights.

Adapted matrices are dequantized, added to and quantized again some rows at a time; all else is copied
byte for byte. Memory is bounded by a few such pieces. What an adapter adds is often less than half a
step of four bits, and would be rounded away: a matrix gets more bits where its own do not keep it.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.core.units import MIB, format_bytes, round_up
from baremetalrt.native.tensor_types import can_dequantize, dequantize, quantize
from baremetalrt.weights.adapters.adapter import Adapter, LowRank, check_fits, combined, is_tied
from baremetalrt.weights.adapters.merge_types import MergeType, candidate_types, unmade
from baremetalrt.weights.adapters.rows import read_rows
from baremetalrt.weights.gguf import EMBEDDING, HEAD, GGUFFile, TensorInfo
from baremetalrt.weights.writing import DEFAULT_ALIGNMENT

MERGED_KEY: Final = "baremetalrt.merged"
# The share of a change that `auto` wants kept, of each matrix.
_ENOUGH: Final = 0.95
_PIECE_BYTES: Final = 8 * MIB

OnProgress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """How a merge went.

    `kept`: the share of what adapters change that is left. `num_retyped`: the matrices with another type
    than before, of `num_adapted`.
    """

    kept: float
    num_adapted: int
    num_retyped: int


def merge(
    file: GGUFFile,
    adapters: Sequence[tuple[Adapter, float]],
    target: Path,
    *,
    type_: MergeType = "auto",
    on_progress: OnProgress = lambda fraction: None,
) -> Merged:
    """Writes `file` with these adapters, each times its weight, to `target`.

    Raises:
        UsageError: an adapter does not fit, the file is split or merged before, a type cannot be made
            from numbers alone, or there is one matrix where two are adapted; or `target` exists.
        CapacityError: the disk is full.
        IntegrityError: the file ends before its tensors do.
    """
    for adapter, _ in adapters:
        check_fits(adapter, file)
    _check_mergeable(file, adapters, target)
    names = {name for adapter, _ in adapters for name in adapter.matrices}
    candidates = {name: candidate_types(file.tensors[name], type_) for name in names}
    _check_room(file, candidates, target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with disk_errors(target):
            # It holds what the adapter learned: its owner decides who else may read it.
            temporary.touch(mode=0o600)
            with file.path.open("rb") as old, temporary.open("wb") as new:
                merged = _Writing(file, adapters, candidates, on_progress).run(old, new)
                new.flush()
                os.fsync(new.fileno())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return merged


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
    names = {name for adapter, _ in adapters for name in adapter.matrices}
    if is_tied(file) and names & {EMBEDDING, HEAD}:
        raise UsageError(
            f"{file.path.name} has one matrix for embedding and head, which are adapted apart",
            code="merge.tied",
            hint="use the adapter beside the model, with --adapter",
        )
    for name in names:
        if not can_dequantize(file.tensors[name].type):
            raise unmade(file.tensors[name])
    missing = file.missing(t.byte_range for t in file.tensors.values())
    if missing:
        raise IntegrityError(
            f"{file.path.name} is incomplete", code="gguf.truncated", source=str(file.path)
        )


def _check_room(file: GGUFFile, candidates: dict[str, tuple[int, ...]], target: Path) -> None:
    more = sum(
        max(0, 2 * info.num_elements - info.num_bytes)
        for name, info in file.tensors.items()
        if len(candidates.get(name, ())) > 1
    )
    folder, needed = target.absolute().parent, file.path.stat().st_size + more + MIB
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CapacityError(
            f"{folder} has {format_bytes(free)} left, the merged model needs up to "
            f"{format_bytes(needed)}",
            code="disk.full",
            needed=needed,
            available=free,
            hint="write it to another disk with --output",
        )


class _Writing:
    """Writes tensor after tensor, and the header last: it has the same size whatever types it names."""

    def __init__(
        self,
        file: GGUFFile,
        adapters: Sequence[tuple[Adapter, float]],
        candidates: dict[str, tuple[int, ...]],
        on_progress: OnProgress,
    ) -> None:
        self._file = file
        self._adapters = adapters
        self._candidates = candidates
        self._on_progress = on_progress
        found = file.get("general.alignment")
        self._alignment = found if isinstance(found, int) and found > 0 else DEFAULT_ALIGNMENT

    def run(self, old: IO[bytes], new: IO[bytes]) -> Merged:
        along, whole, num_retyped = 0.0, 0.0, 0
        names = " + ".join(f"{adapter.name} * {scale:g}" for adapter, scale in self._adapters)
        total = os.fstat(old.fileno()).st_size
        with self._file.fresh_header() as header:
            header.set_text(MERGED_KEY, names[:1000])
            new.seek(header.meta_bytes)
            for info in sorted(self._file.tensors.values(), key=lambda t: t.start):
                old.seek(info.start)
                m = combined(self._adapters, info.name)
                if m is None:
                    _copy(old, new, info.num_bytes)
                else:
                    type_, part = self._merge_tensor(info, m, old, new)
                    along, whole = along + part[0], whole + part[1]
                    num_retyped += type_ != info.type
                    header.set_type(info.name, type_)
                new.write(bytes(round_up(new.tell(), self._alignment) - new.tell()))
                self._on_progress((info.start + info.num_bytes) / total)
            new.seek(0)
            new.write(header.to_bytes())
        return Merged(
            kept=along / whole if whole else 1.0,
            num_adapted=len(self._candidates),
            num_retyped=num_retyped,
        )

    def _merge_tensor(
        self, info: TensorInfo, m: LowRank, old: IO[bytes], new: IO[bytes]
    ) -> tuple[int, tuple[float, float]]:
        """The type that a tensor got, and what `_merge_matrix` says of all of it."""
        start = new.tell()
        for type_ in self._candidates[info.name]:
            old.seek(info.start)
            new.seek(start)
            along, whole = 0.0, 0.0
            # Of experts, one matrix after the other: each factor has one more dimension in front.
            for expert in range(info.shape[2]):
                one = LowRank(m.a_RD[expert], m.b_FR[expert]) if m.a_RD.ndim == 3 else m
                part = _merge_matrix(info, type_, one, old, new)
                along, whole = along + part[0], whole + part[1]
            if along >= _ENOUGH * whole:
                break
        return type_, (along, whole)


def _merge_matrix(
    info: TensorInfo, type_: int, m: LowRank, old: IO[bytes], new: IO[bytes]
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
        written = quantize(values, type_)
        new.write(written.data)
        change = values - rows_ND
        came = dequantize(written, type_, info.shape[0]) - rows_ND
        along += float(np.vdot(change, came))
        whole += float(np.vdot(change, change))
    return along, whole


def _copy(old: IO[bytes], new: IO[bytes], count: int) -> None:
    while count:
        data = old.read(min(count, _PIECE_BYTES))
        if not data:
            raise OSError("the base ends early")
        new.write(data)
        count -= len(data)
