"""Figures of samples, and how far chance may have moved them. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A mean of `count` samples and its standard error: two thirds of samples like it lie within that."""

    mean: float
    error: float
    count: int


def mean_of(values: NDArray[np.float64]) -> Estimate:
    """The mean of independent values; of one alone, nobody knows the error."""
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return Estimate(float(values.mean()), error, count)


def share_of(is_right: Sequence[bool]) -> Estimate:
    """How many of all, with the error that a share of so few has (Agresti and Coull): never none."""
    count, right = len(is_right), sum(is_right)
    moved = (right + 2) / (count + 4)
    return Estimate(right / count, math.sqrt(moved * (1 - moved) / (count + 4)), count)
