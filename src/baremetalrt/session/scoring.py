"""How likely a model finds a text: the one scorer, for whoever compares texts, models or adapters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import UsageError
from baremetalrt.session.route import Route
from baremetalrt.session.sampling import log_probabilities

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterSet

# Beyond this, a perplexity is no number any more; it is then as good as endless.
_MAX_NATS: Final = 700.0


@dataclass(frozen=True)
class Score:
    """The log probability of each token that was scored, in nats, `(T,)`."""

    logprobs_T: NDArray[np.float64]

    @property
    def num_tokens(self) -> int:
        return len(self.logprobs_T)

    @property
    def log_likelihood(self) -> float:
        """Of all tokens together, in nats."""
        return float(self.logprobs_T.sum())

    @property
    def per_token(self) -> float:
        """The mean log probability, in nats."""
        return self.log_likelihood / self.num_tokens

    @property
    def perplexity(self) -> float:
        return perplexity(-self.per_token)


def perplexity(nats_per_token: float) -> float:
    """What a loss in nats per token is as a perplexity."""
    return math.exp(min(nats_per_token, _MAX_NATS))


async def score(
    route: Route,
    prompt: Sequence[int],
    tokens: Sequence[int],
    *,
    adapters: "AdapterSet | None" = None,
) -> Score:
    """How likely `tokens` are after `prompt`, which has one token at least.

    Nothing stays in the caches: what is scored is no text that anybody goes on with.

    Raises:
        UsageError: there is nothing to score, or nothing before it.
        CapacityError: other sessions hold too much of the cache.
    """
    if not prompt or not tokens:
        raise UsageError("a score needs a prompt and tokens behind it", code="score.empty")
    text = [*prompt, *tokens]
    found: list[float] = []
    place = await route.open((), len(text), adapters)
    try:
        start = 0
        while start < len(text):
            part = text[start : start + route.chunk_tokens]
            wanted = start + len(part) >= len(prompt)
            rows_TV = await route.forward(place, part, "all" if wanted else "none")
            # Row i is about the token behind it. Taken at once: the next step reuses its memory.
            for i, row_V in enumerate(rows_TV if wanted else (), start + 1):
                if len(prompt) <= i < len(text):
                    found.append(float(log_probabilities(row_V)[text[i]]))
            start += len(part)
    finally:
        route.release(place, keep=False)
    return Score(np.array(found, np.float64))
