"""Embeddings and heads that `peft` saves beside an adapter, though nothing was trained in them.

It does so wherever one of them is adapted, and wherever a vocabulary might have changed. They are those
of the base, in the precision of its training, while the base here may have four bits: so they are
compared with what quantization does to them.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import UsageError
from baremetalrt.native.tensor_types import can_dequantize, can_quantize, dequantize, quantize
from baremetalrt.weights.adapters.adapter import adapted_tensor, shape_of
from baremetalrt.weights.adapters.rows import read_rows
from baremetalrt.weights.adapters.safetensors_folder import StoredTensor
from baremetalrt.weights.gguf import GGUFFile, TensorInfo

# Half precision rounds by less; so do two programs that made the same file.
_FLOAT_ERROR: Final = 0.01
# Another program may have weighed the errors of its quantization, and rows differ.
_MARGIN: Final = 4.0
# What is trained anew, or is another's, differs by more than its own length.
_MAX_ERROR: Final = 0.9
_SAMPLE_ROWS: Final = 64


def check_unchanged(saved: StoredTensor, name: str, base: GGUFFile, tensor: str) -> None:
    """Passes if what was saved is what the base has.

    Raises:
        UsageError: it was trained, or belongs to another vocabulary; or the base is not all here.
    """
    info = adapted_tensor(base, tensor)
    if info is None or tuple(reversed(shape_of(info))) != saved.shape:
        here = "none" if info is None else info.describe_shape()
        raise _changed(
            f"{name[:200]} of {' x '.join(map(str, reversed(saved.shape)))}, the model has {here}",
            hint="its vocabulary was changed: merge it with the program that made it, and run that",
        )
    if base.missing([info.byte_range]):
        raise UsageError(
            f"the adapter brings {name[:200]}, to be compared with weights that are not all here yet",
            code="adapter.arriving",
            parameter="adapter",
            hint="`bmrt pull` the model first",
        )
    if not can_dequantize(info.type):
        raise _changed(f"{name[:200]}, the model has it in the type {info.type_name}")
    num_changed, num_rows = 0, 1 if len(saved.shape) == 1 else saved.shape[0]
    with base.paths[info.file].open("rb") as file:
        file.seek(info.start)
        for rows_ND in saved.rows() if len(saved.shape) > 1 else saved.pieces(info.shape[0]):
            rows_ND = np.atleast_2d(rows_ND)
            allowed = _allowed_error(rows_ND[:_SAMPLE_ROWS], info)
            at = 0
            for _, base_ND in read_rows(file, info, len(rows_ND)):
                part_ND = rows_ND[at : at + len(base_ND)]
                at += len(base_ND)
                error_N = np.linalg.norm(part_ND - base_ND, axis=1)
                length_N = np.linalg.norm(part_ND, axis=1)
                # Rows that nobody uses are nearly nothing.
                least = 0.01 * float(np.sqrt(np.mean(np.square(length_N))))
                num_changed += int((~(error_N <= allowed * length_N + least)).sum())
    if num_changed:
        raise _changed(
            f"{name[:200]}, {num_changed} of {num_rows} rows of which are not those of the model",
            hint="merge it with the program that made it, and run the merged model",
        )


def _allowed_error(sample_ND: NDArray[np.float32], info: TensorInfo) -> float:
    """How far rows may be from those of the base, as a share of their length."""
    if not can_quantize(info.type):
        return _MAX_ERROR
    if not np.isfinite(sample_ND).all():
        return 0.0
    there = dequantize(quantize(sample_ND, info.type), info.type, info.shape[0])
    length = float(np.linalg.norm(sample_ND))
    error = float(np.linalg.norm(there - sample_ND)) / length if length else 0.0
    return min(max(_MARGIN * error, _FLOAT_ERROR), _MAX_ERROR)


def _changed(what: str, hint: str = "use it with the model that it was made for") -> UsageError:
    return UsageError(
        f"the adapter brings {what}", code="adapter.unsupported", parameter="adapter", hint=hint
    )
