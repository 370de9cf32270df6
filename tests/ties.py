"""Steps of several texts in one batch sum in another order: where two logits tie, another may win."""

from typing import Final

import numpy as np

from baremetalrt.node.node import Model

# Logits differ by less than this.
TIE: Final = 0.05


async def logits_after(model: Model, text: list[int]) -> np.ndarray:
    """Of the token that follows a text."""
    place = await model.route.open((), len(text))
    try:
        return (await model.route.forward(place, text, "last"))[0]
    finally:
        model.route.release(place, keep=False)


async def require_same(
    alone: Model, prompt: list[int], tokens: list[int], others: list[int]
) -> None:
    """Fails unless two greedy answers are the same up to where, alone, two tokens tie."""
    assert len(tokens) == len(others)
    if tokens == others:
        return
    at = next(i for i, pair in enumerate(zip(tokens, others, strict=True)) if len({*pair}) > 1)
    logits = await logits_after(alone, prompt + tokens[:at])
    # Either may be ahead: these logits, too, are of a batch of another shape.
    gap = abs(logits[tokens[at]] - logits[others[at]])
    assert gap < TIE, f"token {at}: {gap} is no tie"
