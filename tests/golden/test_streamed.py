"""Weights that are read from disk in every step give the numbers of those that stay, to the bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from architecture_cases import CASES, WIDE, tokens_of
from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.loaded_adapters import AdapterSet, WeightedAdapter
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.spans import BlockSpan
from tiny_adapters import random_adapter
from tiny_models import TinyModel, write
from tiny_spans import open_span

CHUNKS = (100, 1, 1, 50)


def open_twins(path: Path, share: float, blocks: BlockSpan | None = None) -> tuple[Span, Span]:
    """A span with all of its weights in memory, and one that has room for a share of them."""
    whole = open_span(path, blocks=blocks, copy_budget_bytes=0)
    size = sum(len(r) for unit in whole.units for r in whole.unit_ranges(unit))
    streamed = open_span(
        path, blocks=blocks, weight_budget_bytes=int(size * share), step_tokens=512
    )
    assert whole.weights.is_whole and not whole.weights.streamed_bytes
    assert not streamed.weights.is_whole and streamed.weights.streamed_bytes
    return whole, streamed


def run(
    span: Span,
    tokens: NDArray[np.int32],
    reads: str = "all",
    adapters: AdapterSet | None = None,
    x_TD: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    sequence = span.open([int(tokens[0])], len(tokens), adapters=adapters)
    rows, done = [], 0
    for n in CHUNKS:
        cut = slice(done, done + n)
        x = None if x_TD is None else x_TD[cut]
        rows.append(span.forward([Slice(sequence, tokens[cut].tolist(), x)], reads).copy())
        done += n
    assert sequence.length == done
    span.release(sequence, keep=False)
    span.close()
    return np.concatenate(rows)


@pytest.mark.parametrize("share", [0.4, 0.8])
@pytest.mark.parametrize("name", CASES)
def test_streamed_equals_resident(name: str, share: float, tmp_path: Path) -> None:
    """Every family; some blocks stay, others take turns, and the head comes whole or in stretches."""
    model = replace(CASES[name], num_blocks=max(5, CASES[name].num_blocks))
    tokens = tokens_of(model, sum(CHUNKS))
    whole, streamed = open_twins(write(model, tmp_path / "model.gguf"), share)
    assert streamed.weights.num_parts > 2
    np.testing.assert_array_equal(run(streamed, tokens), run(whole, tokens))


@pytest.mark.parametrize("weights", ["Q4_0", "Q6_K", "Q8_0"])
def test_one_block_at_a_time_equals_resident(weights: str, tmp_path: Path) -> None:
    """The least memory that can be: one slot, for the largest block; a head larger than that in parts."""
    model = replace(TinyModel("llama", weights=weights), **WIDE, num_blocks=4, vocabulary_size=9000)
    path = write(model, tmp_path / "model.gguf")
    tokens = tokens_of(model, sum(CHUNKS))
    whole = open_span(path, copy_budget_bytes=0)
    block = max(sum(len(r) for r in whole.unit_ranges(i)) for i in range(4))
    streamed = open_span(path, weight_budget_bytes=block + 2 * 4096, step_tokens=512)
    assert streamed.weights.num_parts > 5
    assert streamed.weights.slots_bytes <= block + 2 * 4096
    np.testing.assert_array_equal(run(streamed, tokens, "last"), run(whole, tokens, "last"))


@pytest.mark.parametrize("blocks", [BlockSpan(0, 3), BlockSpan(2, 5), BlockSpan(1, 4)], ids=str)
def test_a_streamed_span_of_a_model_equals_a_resident_one(
    blocks: BlockSpan, tmp_path: Path
) -> None:
    model = TinyModel("llama", num_blocks=5)
    tokens = tokens_of(model, sum(CHUNKS))
    x_TD = None
    if blocks.start:
        x_TD = np.random.default_rng(3).standard_normal((len(tokens), model.width), np.float32)
    whole, streamed = open_twins(write(model, tmp_path / "model.gguf"), 0.6, blocks)
    expected = run(whole, tokens, x_TD=x_TD)
    np.testing.assert_array_equal(run(streamed, tokens, x_TD=x_TD), expected)


def test_adapters_are_added_to_streamed_weights(tmp_path: Path) -> None:
    """To a head in stretches, too, each of which has rows of the adapter's factors."""
    model = TinyModel("llama", num_blocks=5, vocabulary_size=2000)
    path = write(model, tmp_path / "model.gguf")
    tokens = tokens_of(model, sum(CHUNKS))
    adapters = AdapterSet((WeightedAdapter(random_adapter(path), 0.7),))
    whole, streamed = open_twins(path, 0.3)
    expected = run(whole, tokens, adapters=adapters)
    np.testing.assert_allclose(run(streamed, tokens, adapters=adapters), expected, atol=1e-5)


def test_sessions_in_one_batch_are_streamed_together(tmp_path: Path) -> None:
    """Each weight is read once for all of them, and rows return in the order of the callers."""
    model = TinyModel("gemma3", num_blocks=7, tied=True, metadata={"attention.sliding_window": 48})
    whole, streamed = open_twins(write(model, tmp_path / "model.gguf"), 0.5)
    texts = [tokens_of(replace(model, seed=i), 60 + i) for i in range(3)]

    def steps(span: Span) -> list[NDArray[np.float32]]:
        sequences: list[CachedSequence] = [span.open([i], 300) for i in range(3)]
        for s, text in zip(sequences, texts, strict=True):
            span.forward([Slice(s, text.tolist())], "none")
        rows = []
        for token in range(20):
            order = [(token + i) % 3 for i in range(3)]
            rows.append(span.forward([Slice(sequences[i], [token]) for i in order], "last").copy())
        span.close()
        return rows

    before = streamed.weights.read_bytes
    for ours, theirs in zip(steps(streamed), steps(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Three prompts and twenty steps, and at most two slots read ahead.
    num_steps = (streamed.weights.read_bytes - before) / streamed.weights.streamed_bytes
    assert 22 <= num_steps <= 25


def test_a_long_prompt_reads_every_weight_once(tmp_path: Path) -> None:
    """In chunks within each part, so that the sums are those of chunks."""
    model = TinyModel("llama", num_blocks=5)
    whole, streamed = open_twins(write(model, tmp_path / "model.gguf"), 0.5)
    assert streamed.chunk_tokens > 1500
    tokens = tokens_of(model, 1500).tolist()
    a, b = whole.open([1], 1500), streamed.open([1], 1500)
    ours = streamed.forward([Slice(b, tokens)], "last")
    assert streamed.weights.read_bytes <= 1.6 * streamed.weights.streamed_bytes
    for start in range(0, 1500, 512):
        theirs = whole.forward([Slice(a, tokens[start : start + 512])], "last")
    np.testing.assert_array_equal(ours, theirs)
    whole.close()
    streamed.close()


EXPERTS = TinyModel(
    "qwen3moe", num_blocks=5, num_experts=16, num_experts_used=3, feed_forward_width=64
)


def experts_of(span: Span) -> int:
    return 3 * 16 * 64 * 64 * 4 * span.blocks.end


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_experts_are_read_as_they_are_chosen(share: float, tmp_path: Path) -> None:
    """Not blocks: what no router asks for stays on disk, what it asks for again is there."""
    path = write(EXPERTS, tmp_path / "model.gguf")
    tokens = tokens_of(EXPERTS, sum(CHUNKS))
    whole = open_span(path, copy_budget_bytes=0)
    size = sum(len(r) for unit in whole.units[1:] for r in whole.unit_ranges(unit))
    budget = size - int((1 - share) * experts_of(whole))
    streamed = open_span(path, weight_budget_bytes=budget, step_tokens=512)
    pool = streamed.weights.slots_bytes
    assert 0.2 * experts_of(whole) <= pool <= 0.6 * experts_of(whole)
    np.testing.assert_array_equal(run(streamed, tokens), run(whole, tokens))


def test_experts_that_stay_are_not_read_again(tmp_path: Path) -> None:
    """The same token again and again takes the same experts."""
    path = write(EXPERTS, tmp_path / "model.gguf")
    whole = open_span(path)
    size = sum(len(r) for unit in whole.units[1:] for r in whole.unit_ranges(unit))
    budget = size - int(0.5 * experts_of(whole))
    whole.close()
    span = open_span(path, weight_budget_bytes=budget)
    sequence = span.open([1], 200)
    for _ in range(100):
        span.forward([Slice(sequence, [7])], "last")
    before = span.weights.read_bytes
    for _ in range(50):
        span.forward([Slice(sequence, [7])], "last")
    one = 3 * 64 * 64 * 4
    assert span.weights.read_bytes - before < 0.1 * 50 * 5 * 3 * one
    span.close()
