"""What a step of a span is given, and what is read of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.extents import CachedSequence

# A step has at most so many tokens, like llama.cpp's; what is longer is computed one after the other.
CHUNK_TOKENS: Final = 512

# Of which of its tokens a session wants rows.
Reads = Literal["all", "last", "none"]


@dataclass(slots=True)
class Slice:
    """What one session contributes to a step: the next tokens of its text.

    Spans after the first compute from `x_TD`; the tokens then only name what was computed, so that a
    later text with the same beginning finds it.
    """

    sequence: CachedSequence
    tokens: Sequence[int]
    x_TD: NDArray[np.float32] | None = None
