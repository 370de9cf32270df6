"""What type a matrix gets when an adapter is added to it."""

from typing import Final, Literal

import numpy as np

from baremetalrt.core.errors import UsageError
from baremetalrt.native.graph import F16, F32
from baremetalrt.native.tensor_types import block_width, can_quantize, quantize
from baremetalrt.weights.gguf import TensorInfo

# `auto`: the first type that keeps the change, beginning with a matrix's own; `same`: its own.
MergeType = Literal["auto", "same", "q8_0", "f16", "bf16", "f32"]
_NUMBERS: Final = {"q8_0": 8, "f16": F16, "bf16": 30, "f32": F32}
# More bits each time.
_LADDER: Final = (8, F16, F32)


def candidate_types(info: TensorInfo, type_: MergeType) -> tuple[int, ...]:
    """The types that a matrix may get: the first one that keeps enough, or else the last.

    Raises:
        UsageError: none can be made of numbers alone.
    """
    wanted = {"auto": (info.type, *_LADDER), "same": (info.type,)}.get(type_)
    found = []
    for one in wanted or (_NUMBERS[type_],):
        # Own bits first, then more, never fewer.
        is_more = one == info.type or type_ != "auto" or _bits(one) > _bits(info.type)
        if is_more and can_quantize(one) and info.shape[0] % block_width(one) == 0:
            found.append(one)
    if not found:
        raise unmade(info)
    return tuple(found)


def _bits(type_: int) -> float:
    """How many a number takes."""
    sample = quantize(np.zeros((1, 256), np.float32), type_) if can_quantize(type_) else None
    return 0.0 if sample is None else sample.nbytes * 8 / 256


def unmade(info: TensorInfo) -> UsageError:
    """Why a matrix cannot be merged into."""
    return UsageError(
        f"{info.name} is of the type {info.type_name}, and cannot be made in the type asked for",
        code="merge.type",
        parameter="type",
        hint="--type auto or f32; some types need statistics that are not in the file",
    )
