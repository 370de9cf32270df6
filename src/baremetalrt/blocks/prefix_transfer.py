"""Texts from a KV cache to the disk and back, 256 tokens at a time, so that others compute in between."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.extents import CELL_QUANTUM, CachedSequence
from baremetalrt.blocks.kv_cache import KVCache
from baremetalrt.blocks.prefix_file import PrefixText
from baremetalrt.blocks.prefix_folder import PrefixFolder

# Fewer tokens than these are computed in the time that it takes to look for them.
_MIN_GAIN: Final = 64


class TextGoneError(Exception):
    """A text that was being written has made way for another."""


def restore(
    cache: KVCache, folder: PrefixFolder, sequence: CachedSequence, tokens: Sequence[int]
) -> Iterator[None]:
    """Fills a text that was just opened for `tokens` with what the disk has of them.

    The last token is left to be computed. What cannot be read, or is not what was written, is left to be
    computed, too.
    """
    match = folder.match(sequence.kind, tokens[:-1])
    if match.stored is None or match.length < sequence.length + _MIN_GAIN:
        return
    try:
        with folder.lock(match.stored) as reader:
            if sequence.length < match.stored.floor:
                sequence.floor = match.stored.floor
            for i in range(sequence.length // CELL_QUANTUM, len(match.stored.chunk_bytes)):
                start = i * CELL_QUANTUM
                if start >= match.length:
                    break
                num_cells = min(CELL_QUANTUM, len(match.stored.tokens) - start)
                first_cell, fill = sequence.first_cell + start, partial(reader.read, i)
                windowed = start >= match.stored.floor
                if not cache.write(first_cell, num_cells, fill, windowed=windowed):
                    # What stood there is overwritten.
                    cache.truncate(sequence, min(start, sequence.length))
                    folder.drop(match.stored)
                    return
                known = min(start + CELL_QUANTUM, match.length)
                sequence.tokens.extend(tokens[sequence.length : known])
                sequence.num_saved = sequence.length
                yield
    except OSError:
        return


def text_of(
    cache: KVCache,
    sequence: CachedSequence,
    compute: Callable[[Callable[[], list[NDArray[np.uint8]]]], list[NDArray[np.uint8]]],
) -> PrefixText:
    """A text as it is to be written. `compute` runs a call where nothing computes meanwhile."""
    tokens = array("i", sequence.tokens)
    starts, floor = range(0, len(tokens), CELL_QUANTUM), sequence.floor

    def read(start: int) -> list[NDArray[np.uint8]]:
        is_there = sequence in cache.sequences.sequences and sequence.floor <= floor
        if not is_there or sequence.tokens[: len(tokens)] != tokens:
            raise TextGoneError
        num_cells = min(CELL_QUANTUM, len(tokens) - start)
        return cache.read(sequence.first_cell + start, num_cells, windowed=start >= floor)

    return PrefixText(
        sequence.kind,
        tokens,
        floor,
        [
            cache.chunk_bytes(min(CELL_QUANTUM, len(tokens) - start), windowed=start >= floor)
            for start in starts
        ],
        (compute(partial(read, start)) for start in starts),
    )
