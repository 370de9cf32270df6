"""A graph serves sequences anywhere in the cache; it is built once per shape of step."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.graphs import GraphCache, SpanGraph
from baremetalrt.blocks.loaded_adapters import LoadedAdapters
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.blocks.streams import StepShape
from baremetalrt.core.spans import BlockSpan
from tiny_models import TinyModel, write
from tiny_spans import open_span

MODELS = {
    "llama": TinyModel("llama"),
    "sliding window": TinyModel(
        "gemma3", tied=True, num_blocks=7, metadata={"attention.sliding_window": 48}
    ),
}
TEXT = [(11 * i) % 150 for i in range(320)]
PREFILL = 300


@pytest.fixture(params=MODELS)
def span(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Span]:
    span = open_span(write(MODELS[request.param], tmp_path / "model.gguf"))
    yield span
    span.close()


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[StepShape]:
    """The shape of every graph that is built from now on."""
    shapes: list[StepShape] = []
    build = GraphCache._build

    def counted(
        self: GraphCache,
        shape: StepShape,
        base_cell: int,
        part: BlockSpan,
        adapters: LoadedAdapters | None,
        *,
        has_head: bool,
    ) -> SpanGraph:
        shapes.append(shape)
        return build(self, shape, base_cell, part, adapters, has_head=has_head)

    monkeypatch.setattr(GraphCache, "_build", counted)
    return shapes


def compute(span: Span, sequence: CachedSequence) -> NDArray[np.float32]:
    """The logits after a prefill and every step of decoding that follows."""
    rows = [span.forward([Slice(sequence, TEXT[:PREFILL])], "last").copy()]
    rows += [span.forward([Slice(sequence, [t])], "last").copy() for t in TEXT[PREFILL:]]
    return np.concatenate(rows)


def test_a_sequence_elsewhere_runs_the_same_graphs(span: Span, built: list[StepShape]) -> None:
    """Nothing is built for it, and its logits are the same to the last bit; back again as well."""
    first, second = span.open([1], len(TEXT)), span.open([2], len(TEXT))
    assert first.first_cell != second.first_cell
    expected = compute(span, first)
    # One for the prefill, one for decoding, one more where the window has passed a quantum of cells.
    assert 2 <= len(built) <= 3
    built.clear()
    np.testing.assert_array_equal(compute(span, second), expected)
    del first.tokens[:]
    np.testing.assert_array_equal(compute(span, first), expected)
    assert not built


def test_sequences_take_turns_in_one_graph(span: Span, built: list[StepShape]) -> None:
    """Step by step here and there, neither reads the other's cells."""
    alone = span.open([1], len(TEXT))
    expected = compute(span, alone)
    span.release(alone, keep=False)
    sequences = [span.open([2], len(TEXT)), span.open([3], len(TEXT))]
    for s in sequences:
        span.forward([Slice(s, TEXT[:PREFILL])], "none")
    built.clear()
    for i, token in enumerate(TEXT[PREFILL:]):
        for s in sequences:
            row = span.forward([Slice(s, [token])], "last")[0]
            np.testing.assert_array_equal(row, expected[1 + i])
    assert not built


def test_rows_return_in_the_order_of_the_slices(span: Span) -> None:
    """However the sequences lie in the cache, each caller gets its own row."""
    sequences = [span.open([i], 256) for i in range(4)]
    for i, s in enumerate(sequences):
        span.forward([Slice(s, TEXT[i : i + 20])], "none")
    orders = [[0, 1, 2, 3], [3, 1, 0, 2]]
    rows = []
    for order in orders:
        out = span.forward([Slice(sequences[i], [9 + i]) for i in order], "last")
        rows.append({i: out[n].copy() for n, i in enumerate(order)})
        for s in sequences:
            del s.tokens[20:]
    for i in range(4):
        np.testing.assert_array_equal(rows[0][i], rows[1][i])


@pytest.mark.parametrize(
    ("before", "behind", "capacity", "first_cell"),
    [
        pytest.param(0, 256, 1024, 768, id="elsewhere"),
        pytest.param(256, 0, 2048, 0, id="down over its own cells"),
    ],
)
def test_a_moved_sequence_goes_on_as_if_it_had_not(
    span: Span, built: list[StepShape], before: int, behind: int, capacity: int, first_cell: int
) -> None:
    """Growing copies its cells to another place: no bit of its logits changes."""
    reference = span.open([1], len(TEXT))
    expected = compute(span, reference)
    span.release(reference, keep=False)
    neighbour = span.open([2], before) if before else None
    moving = span.open([3], len(TEXT))
    span.forward([Slice(moving, TEXT[:PREFILL])], "none")
    if behind:
        span.open([4], behind)
    if neighbour:
        span.release(neighbour, keep=False)
    built.clear()
    span.grow(moving, capacity)
    assert moving.first_cell == first_cell != before
    rows = [span.forward([Slice(moving, [t])], "last")[0].copy() for t in TEXT[PREFILL:]]
    np.testing.assert_array_equal(np.stack(rows), expected[1:])
    assert not built
