"""Tuning that can be stated to be differentially private: clip what each row says, add noise, count.

A row goes through the model alone, so that its gradient is known without hooks; `opacus` chooses the
noise and counts what was spent. Source: Abadi et al., arXiv 1607.00133.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

CLIP_NORM: Final = 1.0
_STREAM_BITS: Final = 63


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Of `num_rows` rows each is in a step with probability `sample_rate`."""

    noise_multiplier: float
    sample_rate: float
    num_rows: int
    delta: float
    clip_norm: float = CLIP_NORM

    @classmethod
    def for_target(
        cls, epsilon: float, delta: float | None, *, num_rows: int, step_rows: int, num_steps: int
    ) -> "Privacy":
        """The least noise with which so many steps spend no more than `epsilon`."""
        from opacus.accountants.utils import get_noise_multiplier

        delta = delta or min(1e-5, 0.1 / num_rows)
        sample_rate = min(1.0, step_rows / num_rows)
        noise = get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=delta,
            sample_rate=sample_rate,
            steps=num_steps,
            accountant="rdp",
        )
        return cls(
            noise_multiplier=float(noise), sample_rate=sample_rate, num_rows=num_rows, delta=delta
        )

    def spent(self, num_steps: int) -> float:
        """The epsilon that so many steps have spent."""
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(self.noise_multiplier, self.sample_rate, num_steps)]
        return float(accountant.get_epsilon(self.delta))

    def state(self, num_steps: int, length: int) -> str:
        """What can be said of an adapter, and what not."""
        return (
            f"differentially private in each training row of up to {length} tokens: "
            f"epsilon {self.spent(num_steps):.2f} at delta {self.delta:.1e}; "
            "a document of several rows is protected less"
        )


class NoisySum:
    """Collects the clipped gradients of rows. Chance comes from the system, never from the run's seed:
    noise that can be made again can be taken away again."""

    def __init__(self, privacy: Privacy, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._privacy = privacy
        self._parameters = list(parameters)
        self._sums = [torch.zeros_like(p) for p in self._parameters]
        self._generator = torch.Generator().manual_seed(secrets.randbits(_STREAM_BITS))
        self._rng = np.random.default_rng(secrets.randbits(_STREAM_BITS))

    def draw(self) -> list[int]:
        """The rows of the next step: each by its own coin, so that there may be none."""
        p = self._privacy
        return np.flatnonzero(self._rng.random(p.num_rows) < p.sample_rate).tolist()

    def add(self) -> None:
        """Takes the gradients that are there as those of one row, and clears them."""
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self._parameters if p.grad is not None]
        )
        scale = min(1.0, self._privacy.clip_norm / (float(norm) + 1e-12))
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            assert parameter.grad is not None
            total.add_(parameter.grad, alpha=scale)
            parameter.grad.zero_()

    def release(self) -> None:
        """Puts the noisy mean where the optimizer looks for gradients, and begins anew."""
        p = self._privacy
        expected = max(1.0, p.sample_rate * p.num_rows)
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            noise = torch.randn(total.shape, generator=self._generator).to(total.device)
            total.add_(noise, alpha=p.noise_multiplier * p.clip_norm)
            parameter.grad = total / expected
            total.zero_()
