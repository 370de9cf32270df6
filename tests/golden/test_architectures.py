"""Every architecture gives llama.cpp's logits, on the same file, from the same library."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from architecture_cases import (
    CASES,
    CONTEXT,
    OTHER_ORDER,
    QUANTIZED,
    SAME_ORDER,
    WIDE,
    run,
    tokens_of,
)
from baremetalrt.blocks.architectures import ARCHITECTURES
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.spans import BlockSpan
from oracle import LlamaCpp
from tiny_models import TinyModel, write
from tiny_spans import open_span


def assert_close(ours: NDArray[np.float32], theirs: NDArray[np.float32], tolerance: float) -> None:
    assert np.isfinite(ours).all()
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


CHUNKS = (128, 1, 71, 100)


def check(model: TinyModel, path: Path) -> None:
    """Prefill, decode, and chunked prefill of 300 tokens: past every window and cell quantum."""
    write(model, path)
    tokens = tokens_of(model, sum(CHUNKS))
    ids = tokens.tolist()
    span = open_span(path, num_cells=8192)
    with LlamaCpp(path, n_ctx=CONTEXT) as oracle:
        whole = oracle.prefill(ids)
        assert_close(run(span, tokens, [300]), whole, SAME_ORDER)

        starts = np.cumsum((0, *CHUNKS[:-1])).tolist()
        chunked = np.concatenate(
            [oracle.prefill(ids[s : s + n], start=s) for s, n in zip(starts, CHUNKS, strict=True)]
        )
        assert_close(run(span, tokens, list(CHUNKS)), chunked, SAME_ORDER)
        assert_close(run(span, tokens, list(CHUNKS), reads="last")[-1], chunked[-1], OTHER_ORDER)

        oracle.prefill(ids[:240])
        stepped = np.stack([oracle.step(ids[i], i) for i in range(240, 300)])
        ours = run(span, tokens, [240] + [1] * 60, reads="last")
        assert_close(ours[1:], stepped, SAME_ORDER)
    span.close()


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_llama_cpp(name: str, tmp_path: Path) -> None:
    """Unquantized, so that nothing hides a difference."""
    check(CASES[name], tmp_path / "model.gguf")


@pytest.mark.parametrize("weights", QUANTIZED)
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_quantized_logits_equal_llama_cpp(architecture: str, weights: str, tmp_path: Path) -> None:
    """The same with quantized weights, reordered ones among them."""
    check(replace(CASES[architecture], weights=weights, **WIDE), tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3moe", "phi3"])
def test_spans_in_a_row_equal_the_whole(name: str, tmp_path: Path) -> None:
    """Two spans, one after the other, give the logits of one span with all blocks."""
    model = replace(CASES[name], num_blocks=5)
    path = write(model, tmp_path / "model.gguf")
    tokens = tokens_of(model, 90)
    whole = open_span(path, num_cells=8192)
    expected = run(whole, tokens, [50, 1, 39])
    first, second = (
        open_span(path, num_cells=8192, blocks=BlockSpan(0, 2)),
        open_span(path, num_cells=8192, blocks=BlockSpan(2, 5)),
    )
    a, b = first.open([1], 90), second.open([1], 90)
    rows, done = [], 0
    for n in (50, 1, 39):
        chunk = tokens[done : done + n].tolist()
        x_TD = first.forward([Slice(a, chunk)], "all")
        rows.append(second.forward([Slice(b, chunk, x_TD)], "all").copy())
        done += n
    np.testing.assert_array_equal(np.concatenate(rows), expected)
    for span in (whole, first, second):
        span.close()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_last_span_of_one_block_prefills_unread(name: str, tmp_path: Path) -> None:
    """Chunks that nobody reads only store keys and values, which the next chunk builds upon."""
    model = CASES[name]
    path = write(model, tmp_path / "model.gguf")
    tokens = tokens_of(model, 60)
    blocks = model.num_blocks
    first = open_span(path, num_cells=8192, blocks=BlockSpan(0, blocks - 1))
    last = open_span(path, num_cells=8192, blocks=BlockSpan(blocks - 1, blocks))
    a, b = first.open([1], 60), last.open([1], 60)
    for ids in (tokens[:40].tolist(), [int(tokens[40])]):
        unread = last.forward([Slice(b, ids, first.forward([Slice(a, ids)], "all"))], "none")
        assert len(unread) == 0
    ids = tokens[41:].tolist()
    ours = last.forward([Slice(b, ids, first.forward([Slice(a, ids)], "all"))], "last")
    whole = open_span(path, num_cells=8192)
    np.testing.assert_array_equal(ours, run(whole, tokens, [40, 1, 19], reads="last")[-1:])
    for span in (whole, first, last):
        span.close()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "phi3"])
def test_sessions_in_one_batch_equal_sessions_alone(name: str, tmp_path: Path) -> None:
    """Streams of different length, with gaps between them and moved extents, decode as one batch."""
    model = CASES[name]
    span = open_span(write(model, tmp_path / "model.gguf"), num_cells=8192)
    texts = [tokens_of(replace(model, seed=i), n) for i, n in enumerate((310, 20, 150, 260, 9))]
    alone = [run(span, t, [len(t) - 8] + [1] * 8, reads="last")[1:] for t in texts]
    sequences = [span.open([i], len(t)) for i, t in enumerate(texts)]
    span.release(sequences.pop(1), keep=False)
    del texts[1], alone[1]
    for sequence, t in zip(sequences, texts, strict=True):
        span.forward([Slice(sequence, t[:-8].tolist())], "none")
    span.grow(sequences[0], 600)
    for step in range(8):
        slices = [
            Slice(s, [int(t[len(t) - 8 + step])]) for s, t in zip(sequences, texts, strict=True)
        ]
        together = span.forward(slices, "last")
        for row, expected in zip(together, alone, strict=True):
            assert_close(row, expected[step], OTHER_ORDER)
    span.close()
