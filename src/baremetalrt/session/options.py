"""How the tokens of an answer are chosen. Light: parsed before the engine is imported."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from baremetalrt.core.errors import UsageError

# What somebody asks for by name; the rest is as the model's makers mean it: see `recommended.py`.
GivenSampling = Mapping[str, Any]
_LEAST_TEMPERATURE: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How to choose among tokens. The defaults suit chat; `temperature=0` is greedy.

    `top_k=0`, `top_p=1`, `min_p=0`, `typical_p=1`, `repetition_penalty=1` and zero for the other
    penalties switch each of them off. Penalties look at the last `penalty_window` tokens.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 64
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, 100.0)
        _check("top_k", self.top_k, 0, 1 << 30)
        _check("top_p", self.top_p, 0.0, 1.0)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("typical_p", self.typical_p, 0.0, 1.0)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _check("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        _check("penalty_window", self.penalty_window, 0, 1 << 16)
        if self.seed is not None:
            _check("seed", self.seed, -(1 << 63), (1 << 64) - 1)
        for bias in self.logit_bias.values():
            _check("logit_bias", bias, -100.0, 100.0)

    @property
    def is_greedy(self) -> bool:
        """Whether there is nothing to draw: logits over so little are further apart than floats tell."""
        return self.temperature < _LEAST_TEMPERATURE

    @property
    def penalizes(self) -> bool:
        neutral = (1.0, 0.0, 0.0)
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != neutral and self.penalty_window > 0


def _check(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise UsageError(
            f"{name} is {value}, outside of {low:g} to {high:g}",
            code="sampling.range",
            parameter=name,
        )
