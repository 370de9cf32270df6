"""Which rows a step looks at, and how far it goes. Pure functions of step and seed: nothing to save."""

import math
from typing import Final

import numpy as np

_WARMUP_SHARE: Final = 0.05
_LAST_SHARE: Final = 0.1
# Evaluations per run, unless there are fewer steps.
_EVALUATIONS: Final = 10


def rows_of_step(step: int, step_rows: int, num_rows: int, seed: int) -> list[int]:
    """Row numbers of a step: every row once per epoch, in an order of that epoch's own."""
    chosen = []
    for i in range(step * step_rows, (step + 1) * step_rows):
        epoch, place = divmod(i, num_rows)
        chosen.append(_order(epoch, num_rows, seed)[place])
    return chosen


def _order(epoch: int, num_rows: int, seed: int) -> list[int]:
    order: list[int] = np.random.default_rng((seed, epoch)).permutation(num_rows).tolist()
    return order


def learning_rate(step: int, num_steps: int, peak: float) -> float:
    """Up to the peak in the first twentieth, then down along a cosine to a tenth of it."""
    warmup = max(1, round(num_steps * _WARMUP_SHARE))
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return peak * (_LAST_SHARE + (1.0 - _LAST_SHARE) * 0.5 * (1.0 + math.cos(math.pi * done)))


def evaluates_after(step: int, num_steps: int, every: int | None) -> bool:
    """Whether the held-out loss is measured once `step` steps are done."""
    every = every or max(1, num_steps // _EVALUATIONS)
    return step % every == 0 or step == num_steps
