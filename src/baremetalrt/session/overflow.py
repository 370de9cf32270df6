"""What becomes of a text that is longer than the context. Pure.

Source: StreamingLLM, arXiv 2309.17453, for the first tokens, which attention leans on whatever they are;
llama.cpp's context shift for the half. What stays is computed again, each at its new position.
"""

from collections.abc import Sequence
from typing import Final, Literal

Overflow = Literal["error", "slide"]
# The fewest that stay at the beginning.
SINKS: Final = 4


def num_kept(beginning_tokens: int, context_limit: int) -> int:
    """How many tokens stay at the beginning: the system prompt, if there is one, up to half of all."""
    return min(max(SINKS, beginning_tokens), context_limit // 2)


def shortened(text: Sequence[int], kept: int, context_limit: int) -> list[int]:
    """The first `kept` tokens and the newest ones, up to half of what the context holds besides.

    So there is room for as many again, and each new token costs one that is computed once more.
    """
    newest = (context_limit - kept) // 2
    if len(text) <= kept + newest:
        return list(text)
    return [*text[:kept], *text[len(text) - newest :]]
