"""One step through a span whose weights are not all in memory at once: part by part."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.residency import HeadRows, Part
from baremetalrt.blocks.steps import Reads, Slice
from baremetalrt.core.spans import BlockSpan


class Compute(Protocol):
    """A step of at most `step_tokens` through some blocks; its rows may be overwritten by the next."""

    def __call__(
        self, slices: Sequence[Slice], blocks: BlockSpan, reads: Reads, /
    ) -> NDArray[np.float32]: ...


class ComputeHead(Protocol):
    """From rows of model width to a stretch of their logits, which may be overwritten by the next."""

    def __call__(self, x_RD: NDArray[np.float32], rows: HeadRows, /) -> NDArray[np.float32]: ...


def compute_in_parts(
    parts: Iterable[tuple[Part, BlockSpan | HeadRows]],
    holding: Callable[[Part], AbstractContextManager[None]],
    slices: Sequence[Slice],
    *,
    blocks: Compute,
    head: ComputeHead,
    reads: Reads,
    vocabulary_size: int,
    step_tokens: int,
) -> NDArray[np.float32]:
    """One step of any length, all of it for each part, whose weights are there while it is `holding`.

    On return the sequences have grown; if it raises, they are as they were.
    """
    before = [s.sequence.length for s in slices]
    x_TD = [s.x_TD for s in slices]
    logits: NDArray[np.float32] | None = None
    y_RD: NDArray[np.float32] = np.empty((0, 0), np.float32)
    try:
        for part, work in parts:
            if isinstance(work, HeadRows) and not len(y_RD):
                return np.empty((0, vocabulary_size), np.float32)
            with holding(part):
                if isinstance(work, HeadRows):
                    if logits is None:
                        logits = np.empty((len(y_RD), vocabulary_size), np.float32)
                    logits[:, work.start : work.end] = head(y_RD, work)
                    continue
                for s, length in zip(slices, before, strict=True):
                    del s.sequence.tokens[length:]
                given = [Slice(s.sequence, s.tokens, x) for s, x in zip(slices, x_TD, strict=True)]
                y_RD = compute_in_chunks(blocks, given, reads, work, step_tokens)
                x_TD = list(np.split(y_RD, len(slices)))
    except BaseException:
        # Later blocks have no keys and values of these tokens.
        for s, length in zip(slices, before, strict=True):
            del s.sequence.tokens[length:]
        raise
    return y_RD if logits is None else logits


def compute_in_chunks(
    compute: Compute,
    slices: Sequence[Slice],
    reads: Reads,
    part: BlockSpan,
    step_tokens: int,
) -> NDArray[np.float32]:
    """A step of any length through blocks whose weights are there; rows in the order of the slices."""
    num_tokens = len(slices[0].tokens)
    chunks = []
    for start in range(0, num_tokens, step_tokens):
        end = min(start + step_tokens, num_tokens)
        cut = [
            Slice(s.sequence, s.tokens[start:end], None if s.x_TD is None else s.x_TD[start:end])
            for s in slices
        ]
        wants: Reads = "none" if reads == "last" and end < num_tokens else reads
        out = compute(cut, part, wants)
        chunks.append(out.reshape(len(slices), len(out) // len(slices), out.shape[1]).copy())
    read = [chunk for chunk in chunks if chunk.size] or chunks[-1:]
    return np.concatenate(read, axis=1).reshape(-1, read[0].shape[2])
