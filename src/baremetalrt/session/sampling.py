"""From logits to the next token."""

import math
import os
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.native.sampler import SamplerChain
from baremetalrt.session.options import SampleOptions

# The largest 32-bit number is no seed: libllama takes it to mean any.
_NUM_SEEDS: Final = 0xFFFFFFFF


class Sampler:
    """Chooses the tokens of one answer. The same seed and logits give the same tokens.

    Raises:
        UsageError: a bias for a token that is not in the vocabulary.
    """

    def __init__(self, options: SampleOptions, vocabulary_size: int, prompt: Sequence[int]) -> None:
        for token in options.logit_bias:
            if not 0 <= token < vocabulary_size:
                raise UsageError(
                    f"logit_bias has the token {token}, outside of 0 to {vocabulary_size - 1}",
                    code="sampling.range",
                    parameter="logit_bias",
                )
        seed = int.from_bytes(os.urandom(4)) if options.seed is None else options.seed % _NUM_SEEDS
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


def _build_chain(options: SampleOptions, vocabulary_size: int, seed: int) -> SamplerChain | None:
    """The chain for these options, or None where taking the best token is all there is to do."""
    if options.is_greedy and not options.penalizes:
        return None
    chain = SamplerChain(vocabulary_size)
    if options.penalizes:
        chain.add_penalties(
            options.penalty_window,
            options.repetition_penalty,
            options.frequency_penalty,
            options.presence_penalty,
        )
    if not options.is_greedy:
        if options.top_k:
            chain.add_top_k(options.top_k)
        if options.typical_p < 1.0:
            chain.add_typical(options.typical_p)
        if options.top_p < 1.0:
            chain.add_top_p(options.top_p)
        if options.min_p > 0.0:
            chain.add_min_p(options.min_p)
    chain.add_temperature(0.0 if options.is_greedy else options.temperature)
    chain.add_draw(seed)
    return chain


def log_probabilities(logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
    """The natural logarithm of the model's own distribution, before any filter."""
    shifted = logits_V - logits_V.max()
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted, dtype=np.float64).sum())
    return result.astype(np.float32)
