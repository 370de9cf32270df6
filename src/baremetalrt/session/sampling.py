"""From logits to the next token."""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.native.sampler import SamplerChain

# The largest 32-bit number is no seed: libllama takes it to mean any.
_NUM_SEEDS: Final = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to choose among tokens. The defaults suit chat; `temperature=0` is greedy.

    `top_k=0`, `top_p=1`, `min_p=0`, `repetition_penalty=1` and zero for the other penalties switch
    each of them off. Penalties look at the last `penalty_window` tokens.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
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
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _check("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        _check("penalty_window", self.penalty_window, 0, 1 << 16)
        if self.seed is not None:
            _check("seed", self.seed, -(1 << 63), (1 << 64) - 1)
        for bias in self.logit_bias.values():
            _check("logit_bias", bias, -100.0, 100.0)

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


class Sampler:
    """Chooses the tokens of one answer. The same seed and logits give the same tokens.

    Raises:
        UsageError: a bias for a token that is not in the vocabulary.
    """

    def __init__(
        self, options: SamplingOptions, vocabulary_size: int, prompt: Sequence[int]
    ) -> None:
        for token in options.logit_bias:
            if not 0 <= token < vocabulary_size:
                raise UsageError(
                    f"logit_bias has the token {token}, outside of 0 to {vocabulary_size - 1}",
                    code="sampling.range",
                    parameter="logit_bias",
                )
        seed = secrets.randbits(32) if options.seed is None else options.seed % _NUM_SEEDS
        self._chain = _build_chain(options, vocabulary_size, seed)
        if self._chain is not None and options.penalizes:
            for token in prompt[-options.penalty_window :]:
                self._chain.accept(token)
        bias = options.logit_bias
        self._biased_tokens = np.fromiter(bias.keys(), np.int64, len(bias))
        self._biases = np.fromiter(bias.values(), np.float32, len(bias))

    def sample(self, logits_V: NDArray[np.float32], allowed_V: NDArray[np.bool_] | None) -> int:
        """One token. `logits_V` may be changed; `allowed_V` rules tokens out.

        Raises:
            IntegrityError: the model computed something that is not a number.
        """
        if self._biased_tokens.size:
            logits_V[self._biased_tokens] += self._biases
        if allowed_V is not None:
            logits_V[~allowed_V] = -np.inf
        best = int(logits_V.argmax())
        # argmax stops at the first NaN, so that looking at the winner is looking at all of them.
        if not math.isfinite(logits_V[best]):
            raise IntegrityError(
                "the model computed something that is not a number",
                code="model.not-finite",
                source="model",
                hint="the weights are damaged; fetch the file again",
            )
        if self._chain is None:
            return best
        token = self._chain.sample(logits_V)
        self._chain.accept(token)
        return token

    def close(self) -> None:
        if self._chain is not None:
            self._chain.close()


def _build_chain(options: SamplingOptions, vocabulary_size: int, seed: int) -> SamplerChain | None:
    """The chain for these options, or None where taking the best token is all there is to do."""
    if options.temperature == 0.0 and not options.penalizes:
        return None
    chain = SamplerChain(vocabulary_size)
    if options.penalizes:
        chain.add_penalties(
            options.penalty_window,
            options.repetition_penalty,
            options.frequency_penalty,
            options.presence_penalty,
        )
    if options.temperature > 0.0:
        if options.top_k:
            chain.add_top_k(options.top_k)
        if options.top_p < 1.0:
            chain.add_top_p(options.top_p)
        if options.min_p > 0.0:
            chain.add_min_p(options.min_p)
    chain.add_temperature(options.temperature)
    chain.add_draw(seed)
    return chain


def log_probabilities(logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
    """The natural logarithm of the model's own distribution, before any filter."""
    shifted = logits_V - logits_V.max()
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted, dtype=np.float64).sum())
    return result.astype(np.float32)
