"""DoRA: what it does to the rows of a matrix, in the terms of `LowRank`.

It gives every row of `W + scale * B A` a length that was learned, the magnitude. So each row of the base,
and of what is added to it, is multiplied by magnitude over length. Lengths do not depend on what is
computed: they are taken once, when an adapter is read.

Source: arXiv 2402.09353, and `dora.py` of peft.
"""

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import UsageError
from baremetalrt.native.tensor_types import can_dequantize
from baremetalrt.weights.adapters.adapter import LowRank, adapted_tensor, bad, shape_of
from baremetalrt.weights.adapters.rows import read_rows
from baremetalrt.weights.gguf import GGUFFile, TensorInfo, describe_shape


def with_magnitudes(
    m: LowRank,
    scale: float,
    magnitudes_F: NDArray[np.float32],
    base: GGUFFile,
    tensor: str,
    *,
    source: str,
) -> LowRank:
    """The factors of DoRA as what is computed with; `m` and `scale` are those of the LoRA within.

    `source` is who is to blame.

    Raises:
        UsageError: the factors do not fit, or the base is not all here or of a type that cannot be read.
        IntegrityError: there is not one magnitude for every row, or a row has no length.
    """
    if magnitudes_F.shape != (len(m.b_FR),):
        shape = magnitudes_F.shape
        raise bad(source, f"has magnitudes of shape {shape} for {len(m.b_FR)} rows of {tensor}")
    if shape_of(_info(base, tensor)) != m.target_shape:
        raise UsageError(
            f"the adapter has factors of DoRA for {describe_shape(m.target_shape)} in {tensor}, which is "
            f"{describe_shape(shape_of(_info(base, tensor)))}",
            code="adapter.misfit",
            parameter="adapter",
            hint="use it with the model that it was made for; experts are not supported",
        )
    lengths_F = _row_lengths(m, scale, base, tensor)
    if not lengths_F.all():
        raise bad(source, f"takes away whole rows of {tensor}, which then have no direction")
    scale_F = magnitudes_F / lengths_F
    return LowRank(m.a_RD, m.b_FR * scale_F[:, None], scale_F)


def magnitudes(
    m: LowRank, scale: float, base: GGUFFile, tensor: str
) -> tuple[LowRank, NDArray[np.float32]]:
    """The other way round: the LoRA within, and the magnitudes; raises `UsageError` likewise."""
    scale_F = np.ones(len(m.b_FR), np.float32) if m.row_scale_F is None else m.row_scale_F
    inverse_F = np.divide(1, scale_F, out=np.zeros_like(scale_F), where=scale_F != 0)
    plain = LowRank(m.a_RD, m.b_FR * inverse_F[:, None])
    return plain, scale_F * _row_lengths(plain, scale, base, tensor)


def _info(base: GGUFFile, tensor: str) -> TensorInfo:
    info = adapted_tensor(base, tensor)
    assert info is not None  # looked for before
    return info


def _row_lengths(m: LowRank, scale: float, base: GGUFFile, tensor: str) -> NDArray[np.float32]:
    """The length of every row of `W + scale * b @ a`."""
    info = _info(base, tensor)
    if not can_dequantize(info.type):
        raise UsageError(
            f"{tensor} is of the type {info.type_name}, which cannot be read",
            code="adapter.unsupported",
            parameter="adapter",
        )
    if base.missing([info.byte_range]):
        raise UsageError(
            "an adapter of DoRA needs the weights of its base, which are not all here yet",
            code="adapter.arriving",
            parameter="adapter",
            hint="`bmrt pull` the model first",
        )
    lengths_F = np.empty(len(m.b_FR), np.float32)
    scaled_FR = m.b_FR * np.float32(scale)
    with base.paths[info.file].open("rb") as f:
        f.seek(info.start)
        for first, rows_ND in read_rows(f, info, len(lengths_F)):
            end = first + len(rows_ND)
            sum_ND = rows_ND + scaled_FR[first:end] @ m.a_RD
            lengths_F[first:end] = np.linalg.norm(sum_ND, axis=1)
    return lengths_F
