"""Adapters give llama.cpp's logits: the same base, the same GGUF LoRA, the same library.

The tolerance is a share of the largest logit. Scales are applied before a product here and after it
there, and the factors of several adapters are summed in one product: that is rounding of single
precision, which attention then stores in half precision (steps of 5e-4).
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.blocks.adapters import AdapterSet, WeightedAdapter
from baremetalrt.blocks.span import Reads, Slice, Span
from baremetalrt.weights.adapters.adapter import check_fits
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora
from baremetalrt.weights.gguf import GGUFFile
from golden.test_architectures import CASES, CONTEXT, tokens_of
from oracle import LlamaCpp
from tiny_adapters import random_adapter, write_adapter
from tiny_models import write
from tiny_spans import open_span

TOLERANCE = 2e-3
CHUNKS = (100, 1, 40)


def adapter_set(*members: tuple[Path, float]) -> AdapterSet:
    return AdapterSet(tuple(WeightedAdapter(read_gguf_lora(p), scale) for p, scale in members))


def run(
    span: Span,
    tokens: NDArray[np.int32],
    chunks: tuple[int, ...],
    adapters: AdapterSet | None,
    reads: Reads = "all",
) -> NDArray[np.float32]:
    sequence = span.open([int(tokens[0])], len(tokens), adapters=adapters)
    rows, done = [], 0
    for n in chunks:
        rows.append(span.forward([Slice(sequence, tokens[done : done + n].tolist())], reads).copy())
        done += n
    span.release(sequence, keep=False)
    return np.concatenate(rows)


def assert_close(ours: NDArray[np.float32], theirs: NDArray[np.float32], tolerance: float) -> None:
    assert np.isfinite(ours).all()
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def differ(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("name", CASES)
def test_one_and_two_adapters_equal_llama_cpp(name: str, tmp_path: Path) -> None:
    """On every matrix of the model: whole, chunked and token by token; then two with weights."""
    model = CASES[name]
    path = write(model, tmp_path / "model.gguf")
    one = write_adapter(random_adapter(path, seed=1), tmp_path / "one.gguf")
    two = write_adapter(random_adapter(path, seed=2, rank=3, alpha=5.0), tmp_path / "two.gguf")
    tokens = tokens_of(model, sum(CHUNKS))
    ids = tokens.tolist()
    span = open_span(path, num_cells=8192)
    for used in ([(one, 1.0)], [(one, 0.7), (two, -0.4)]):
        adapters = adapter_set(*used)
        for member in adapters.members:
            check_fits(member.adapter, GGUFFile.open(path))
        with LlamaCpp(path, n_ctx=CONTEXT) as oracle:
            plain = oracle.prefill(ids)
            oracle.use_adapters(*used)
            whole = oracle.prefill(ids)
            starts = np.cumsum((0, *CHUNKS[:-1])).tolist()
            chunked = np.concatenate(
                [
                    oracle.prefill(ids[s : s + n], start=s)
                    for s, n in zip(starts, CHUNKS, strict=True)
                ]
            )
        assert differ(whole, plain) > 0.05
        assert_close(run(span, tokens, (len(ids),), adapters), whole, TOLERANCE)
        assert_close(run(span, tokens, CHUNKS, adapters), chunked, TOLERANCE)
        assert_close(run(span, tokens, (len(ids),), None), plain, TOLERANCE)
    span.close()
