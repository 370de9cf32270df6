"""The cache of keys and values takes memory as texts come, and gives it back as they go."""

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.units import KIB
from tiny_models import TinyModel, write
from tiny_spans import open_span

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux")
# 8 KiB a token in two blocks.
WIDE = TinyModel("llama", num_heads=8, num_kv_heads=8, head_size=128, num_blocks=2)
LENGTH = 1024
# Pages that two extents share, and cells up to the end of a quantum.
EDGES = 256 * 8 * KIB


@pytest.fixture
def span(tmp_path: Path) -> Iterator[Span]:
    span = open_span(
        write(WIDE, tmp_path / "wide.gguf"), num_cells=4 * LENGTH, context=LENGTH, num_threads=1
    )
    yield span
    span.close()


def resident(span: Span) -> int:
    """What the cache of a span has of the memory of this machine, in bytes."""
    buffer = span.cache._buffer
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
        pages.seek(buffer.base // mmap.PAGESIZE * 8)
        entries = np.frombuffer(
            pages.read(span.cache.num_cells * span.cache.token_bytes // 512), "<u8"
        )
    return int((entries >> np.uint64(63)).sum()) * mmap.PAGESIZE


def fill(span: Span, tokens: list[int], capacity: int = 0) -> CachedSequence:
    sequence = span.open(tokens, max(capacity, len(tokens)))
    for start in range(sequence.length, len(tokens), 256):
        span.forward([Slice(sequence, tokens[start : start + 256])], "none")
    return sequence


def text(seed: int, length: int = LENGTH) -> list[int]:
    return [(seed + 7 * i) % 150 for i in range(length)]


def test_what_ends_unkept_is_given_back(span: Span) -> None:
    sequence = fill(span, text(1))
    token_bytes = span.cache.token_bytes
    assert 0 <= resident(span) - LENGTH * token_bytes < EDGES
    assert span.cache.unfilled_bytes == (span.cache.num_cells - LENGTH) * token_bytes
    span.release(sequence, keep=False)
    assert resident(span) < EDGES
    assert span.cache.unfilled_bytes == span.cache.num_cells * token_bytes


def test_room_that_was_reserved_costs_nothing(span: Span) -> None:
    """An answer that was to be long and is short: neither its room nor scrubbing it fills pages."""
    for keep in (True, False):
        span.release(fill(span, text(1, 256), capacity=4 * LENGTH - 256), keep=keep)
    assert resident(span) < 256 * span.cache.token_bytes + EDGES


def test_what_is_cut_is_given_back(span: Span) -> None:
    """And what stays computes on as if nothing had been cut off."""
    sequence = fill(span, text(1))
    span.truncate(sequence, 300)
    assert resident(span) < 512 * span.cache.token_bytes + EDGES
    rows = span.forward([Slice(sequence, [5])], "last").copy()
    span.release(sequence, keep=False)
    sequence = fill(span, text(1, 300))
    np.testing.assert_allclose(
        rows, span.forward([Slice(sequence, [5])], "last"), rtol=2e-2, atol=2e-2
    )


def test_texts_that_make_way_take_their_memory_along(span: Span) -> None:
    """Room that was made for a long text costs nothing before the text is there."""
    for seed in range(1, 4):
        span.release(fill(span, text(seed)), keep=True)
    long = span.open([150], 4 * LENGTH)
    assert resident(span) < EDGES
    span.release(long, keep=False)
