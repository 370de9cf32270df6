"""Rotary frequencies as ggml computes them, for the rotary modules of `transformers`. Pure.

Source: `rope_yarn` and `ggml_rope_yarn_corr_dims` in ggml's `ops.cpp` and `ggml.c`; arXiv 2309.00071.
"""

import math

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.hyperparameters import Rope


def frequencies(
    rope: Rope, factors: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], float]:
    """Radians per position for each pair of dimensions, and what cosine and sine are multiplied by."""
    pairs = np.arange(rope.num_dims // 2, dtype=np.float64)
    extrapolated = rope.base ** (-2.0 * pairs / rope.num_dims)
    if factors is not None:
        extrapolated = extrapolated / factors
    interpolated = rope.scale * extrapolated
    if not rope.extrapolation:
        return interpolated.astype(np.float32), rope.attention_factor
    low, high = _corrected_dims(rope)
    ramp = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
    mix = ramp * rope.extrapolation
    scale = rope.attention_factor * (1.0 + 0.1 * math.log(1.0 / rope.scale))
    return (interpolated * (1.0 - mix) + extrapolated * mix).astype(np.float32), scale


def _corrected_dims(rope: Rope) -> tuple[float, float]:
    def dim(rotations: float) -> float:
        turns = rope.original_context / (rotations * 2.0 * math.pi)
        return rope.num_dims * math.log(turns) / (2.0 * math.log(rope.base))

    low = max(0.0, math.floor(dim(rope.beta_fast)))
    return low, min(rope.num_dims - 1.0, math.ceil(dim(rope.beta_slow)))
