"""How far one model's predictions are from another's, on the same tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.steps import Reads
from baremetalrt.core.errors import UsageError
from baremetalrt.session.route import Route

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterSet


@dataclass(frozen=True)
class Comparison:
    """Of each position, `(T,)`: the divergence KL(reference || model) in nats, and whether both would
    choose the same token; and the log probability of the token that follows, by either."""

    kl_T: NDArray[np.float64]
    agrees_T: NDArray[np.bool_]
    logprobs_T: NDArray[np.float64]
    reference_logprobs_T: NDArray[np.float64]


async def compare(
    route: Route,
    reference: Route,
    tokens: Sequence[int],
    *,
    first: int,
    adapters: "AdapterSet | None" = None,
) -> Comparison:
    """What both predict for the tokens from `first` on, which has one before it at least.

    Nothing stays in the caches.

    Raises:
        UsageError: there is nothing to compare, or their vocabularies differ in size.
        CapacityError: other sessions hold too much of a cache.
    """
    if not 0 < first < len(tokens):
        raise UsageError("a comparison needs tokens, and one before them", code="score.empty")
    parts: list[tuple[NDArray[np.float64], ...]] = []
    step = min(route.chunk_tokens, reference.chunk_tokens)
    place = await route.open((), len(tokens), adapters)
    try:
        other = await reference.open((), len(tokens), None)
        try:
            for start in range(0, len(tokens) - 1, step):
                part = tokens[start : start + step]
                # Row i is about the token behind it; the one behind the last is not known.
                skipped = max(0, first - 1 - start)
                following = tokens[start + 1 + skipped : start + 1 + len(part)]
                reads: Reads = "all" if following else "none"
                rows_TV = await route.forward(place, part, reads)
                theirs_TV = await reference.forward(other, part, reads)
                if following:
                    wanted = slice(skipped, skipped + len(following))
                    # Taken at once: the next step reuses their memory.
                    parts.append(_compared(rows_TV[wanted], theirs_TV[wanted], following))
        finally:
            reference.release(other, keep=False)
    finally:
        route.release(place, keep=False)
    kl_T, agrees_T, logprobs_T, reference_T = map(np.concatenate, zip(*parts, strict=True))
    return Comparison(kl_T, agrees_T.astype(np.bool_), logprobs_T, reference_T)


def _compared(
    rows_TV: NDArray[np.float32], theirs_TV: NDArray[np.float32], following: Sequence[int]
) -> tuple[NDArray[np.float64], ...]:
    if rows_TV.shape[1] != theirs_TV.shape[1]:
        raise UsageError(
            "the two models have vocabularies of different sizes",
            code="eval.vocabulary",
            parameter="reference",
            hint="a model is compared with another precision of itself",
        )
    ours, theirs = _log_softmax(rows_TV), _log_softmax(theirs_TV)
    at = np.arange(len(following)), np.asarray(following)
    # Never below zero but by rounding.
    kl_T = np.maximum((np.exp(theirs) * (theirs - ours)).sum(axis=1), 0.0)
    agrees_T = rows_TV.argmax(axis=1) == theirs_TV.argmax(axis=1)
    return kl_T, agrees_T.astype(np.float64), ours[at], theirs[at]


def _log_softmax(rows_TV: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = rows_TV.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
