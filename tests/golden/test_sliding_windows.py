"""Blocks with a sliding window keep little more than that, and compute as if they kept everything."""

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.blocks import extents
from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.cache_types import F16_CACHE
from baremetalrt.blocks.extents import CachedSequence, SlidingWindows
from baremetalrt.blocks.kv_cache import CacheCost
from baremetalrt.blocks.prefix_folder import PrefixFolder
from baremetalrt.blocks.prefix_transfer import text_of
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import MIB
from baremetalrt.devices.budget import MemoryLedger
from baremetalrt.node.device_choice import host_device
from baremetalrt.node.local_spans import LocalSpans
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel
from tiny_models import TinyModel, write
from tiny_spans import open_span

WINDOW, CHUNK, LENGTH = 48, 128, 1200
# Six of its seven blocks have a window.
MODEL = TinyModel(
    "gemma3",
    tied=True,
    num_blocks=7,
    context=1 << 16,
    metadata={"attention.sliding_window": WINDOW},
)
WINDOWS = SlidingWindows(size=WINDOW, num_texts=4, step_tokens=CHUNK)
TEXT = np.random.default_rng(3).integers(0, MODEL.vocabulary_size, LENGTH).tolist()


@pytest.fixture(autouse=True, scope="module")
def little_slack() -> Iterator[None]:
    """So that texts of this size slide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extents, "_WINDOW_SLACK", 256)
        patch.setattr(extents, "_WINDOW_STEP", 256)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(MODEL, tmp_path_factory.mktemp("windows") / "model.gguf")


@pytest.fixture
def spans(path: Path) -> Iterator[tuple[Span, Span]]:
    """One that keeps windows, and one that keeps everything."""
    both = tuple(
        open_span(path, num_cells=8192, context=2048, windows=windows, num_threads=1)
        for windows in (WINDOWS, None)
    )
    yield both[0], both[1]
    for span in both:
        span.close()


def follow(span: Span, sequence: CachedSequence, text: list[int]) -> NDArray[np.float32]:
    """The logits after each step over what is missing of a text: chunks, and the last few one by one."""
    rows = []
    while sequence.length < len(text):
        left = len(text) - sequence.length
        n = min(CHUNK, left - 4) if left > 4 else 1
        chunk = text[sequence.length : sequence.length + n]
        rows.append(span.forward([Slice(sequence, chunk)], "last").copy())
    return np.concatenate(rows)


def test_a_long_text_computes_the_same_on_its_windows(spans: tuple[Span, Span]) -> None:
    """Bit by bit: what was given back is masked."""
    ours, theirs = (follow(span, span.open([0], LENGTH), TEXT) for span in spans)
    np.testing.assert_array_equal(ours, theirs)
    (sequence,) = spans[0].cache.sequences.sequences
    assert 512 < sequence.floor <= LENGTH - WINDOW + 1


def test_texts_of_very_different_length_decode_together(spans: tuple[Span, Span]) -> None:
    """A batch reads as far back as its shortest needs: of longer ones, what is no more, and is masked."""
    rows = []
    for span in spans:
        texts = [TEXT, TEXT[:900], TEXT[7:800]]
        sequences = [span.open([0], LENGTH + 8) for _ in texts]
        for sequence, text in zip(sequences, texts, strict=True):
            follow(span, sequence, text)
        rows.append(
            [span.forward([Slice(s, [t]) for s in sequences], "last").copy() for t in range(4)]
        )
    np.testing.assert_array_equal(*rows)


def test_only_beginnings_that_are_there_are_shared(spans: tuple[Span, Span]) -> None:
    """The end of a long text can be gone on from, also a few turns back; its beginning cannot."""
    span, whole = spans
    text = span.open([0], LENGTH)
    follow(span, text, TEXT)
    span.release(text, keep=True)
    # In use beside others, it is copied; left alone, it is gone on with.
    for n, is_known in ((400, False), (LENGTH - 200, True), (LENGTH - 1, True)):
        branch = [*TEXT[:n], *TEXT[:40]]
        holder = span.open([*TEXT, 1], LENGTH + 1) if n == LENGTH - 200 else None
        sequence = span.open(branch, LENGTH + 100)
        assert sequence.length == (n if is_known else 0)
        rows = follow(span, sequence, branch)
        fresh = whole.open([0], LENGTH + 100)
        expected = follow(whole, fresh, branch)
        np.testing.assert_allclose(rows[-1], expected[-1], atol=2e-2 * np.abs(expected).max())
        whole.release(fresh, keep=False)
        span.release(sequence, keep=False)
        if holder is not None:
            span.release(holder, keep=True)


def test_cutting_too_far_back_forgets_everything(spans: tuple[Span, Span]) -> None:
    span, whole = spans
    sequence = span.open([0], LENGTH)
    follow(span, sequence, TEXT)
    span.truncate(sequence, LENGTH - 150)
    assert sequence.length == LENGTH - 150
    span.truncate(sequence, 300)
    assert sequence.length == sequence.floor == 0
    np.testing.assert_array_equal(
        follow(span, sequence, TEXT[:300]), follow(whole, whole.open([0], 300), TEXT[:300])
    )


def test_a_window_goes_to_disk_and_comes_back(spans: tuple[Span, Span], tmp_path: Path) -> None:
    span, _ = spans
    folder = PrefixFolder(tmp_path, {}, budget_bytes=64 * MIB, window=WINDOW)
    sequence = span.open([0], LENGTH + 8)
    follow(span, sequence, TEXT)
    folder.insert(text_of(span.cache, sequence, lambda call: call()))
    folder.check()
    (file,) = tmp_path.glob("*/*.kv")
    assert file.stat().st_size < LENGTH * span.cache.token_bytes / 2
    span.prefixes = folder
    span.release(sequence, keep=False)
    restored = span.open([*TEXT, 1], LENGTH + 8)
    for _ in span.restore(restored, [*TEXT, 1]):
        pass
    assert restored.length == LENGTH
    rows = follow(span, restored, [*TEXT, 1])
    whole = span.open([0], LENGTH + 8)
    expected = follow(span, whole, TEXT)
    expected = span.forward([Slice(whole, [1])], "last")
    np.testing.assert_allclose(rows, expected, atol=2e-2 * np.abs(expected).max())
    early = span.open(TEXT[:600], 700)
    assert [None for _ in span.restore(early, TEXT[:600])] == [] and early.length == 0


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux")
def test_windows_hold_little_memory(spans: tuple[Span, Span]) -> None:
    """As much as the ledger reckons with, and no more."""
    held = []
    for span in spans:
        before = span.cache.unfilled_bytes
        follow(span, span.open([0], LENGTH), TEXT)
        pages = resident(span)
        # Pages are four kilobytes, and each of a block's stretches ends within some.
        assert pages - (before - span.cache.unfilled_bytes) < 14 * 3 * mmap.PAGESIZE + MIB // 4
        held.append(pages)
    assert held[0] < 0.6 * held[1]


def resident(span: Span) -> int:
    """What the cache of a span has of the memory of this machine, in bytes."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
        pages.seek(span.cache._buffer.base // mmap.PAGESIZE * 8)
        entries = np.frombuffer(
            pages.read(span.cache.num_cells * span.cache.token_bytes // 512), "<u8"
        )
    return int((entries >> np.uint64(63)).sum()) * mmap.PAGESIZE


def test_a_windowed_model_gets_a_longer_context(path: Path) -> None:
    """The same room holds more tokens, and none more than a cache may take."""
    _, h = read_model(GGUFFile.open(path))
    whole = CacheCost.of(h, BlockSpan(0, 7), F16_CACHE, None)
    windowed = CacheCost.of(h, BlockSpan(0, 7), F16_CACHE, WINDOWS)
    for room in (1 * MIB, 8 * MIB, 64 * MIB):
        cells = windowed.max_cells(room)
        assert cells >= whole.max_cells(room)
        assert windowed.num_bytes(cells) <= room < windowed.num_bytes(cells + 1)
    assert windowed.max_cells(64 * MIB) > 4 * whole.max_cells(64 * MIB)
    local = LocalSpans(ModelOptions(num_threads=1), MemoryLedger(lambda: 32 * MIB))
    opening = Opening(StoredModel("windows", path, is_default=False))
    span = local.load(opening, BlockSpan(0, 7), host_device(), num_kept=0)
    # Half of what weights leave, and up to a quantum more.
    assert span.cache.num_bytes == span.cache.unfilled_bytes
    assert span.cache.num_bytes < 16 * MIB + 256 * span.cache.token_bytes
    assert span.context_limit > 4 * whole.max_cells(span.cache.num_bytes)
    local.close()
