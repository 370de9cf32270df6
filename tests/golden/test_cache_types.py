"""Keys and values in fewer bits: llama.cpp's logits with the same types, and one text like many."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.cache_types import CACHE_TYPES, CacheType, CacheTypes
from baremetalrt.blocks.kv_cache import token_bytes
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import UsageError
from baremetalrt.native.graph import F16, Q4_0, Q8_0
from baremetalrt.weights.gguf import GGUFFile
from oracle import LlamaCpp
from tiny_models import TinyModel, write
from tiny_spans import open_span

TYPES: dict[CacheType, int] = {"f16": F16, "q8_0": Q8_0, "q4_0": Q4_0}
PAIRS = [("q8_0", "q8_0"), ("q4_0", "q4_0"), ("q8_0", "q4_0"), ("f16", "q8_0"), ("q4_0", "f16")]
MODELS = {
    "llama": TinyModel("llama", head_size=64),
    "heads of 32": TinyModel("llama", head_size=32, num_kv_heads=4),
    "sliding window": TinyModel(
        "gemma3",
        tied=True,
        num_blocks=7,
        head_size=64,
        metadata={"attention.sliding_window": 48},
    ),
    "fused": TinyModel("phi3", width=128, head_size=32),
}
# Both sides take the same steps on the same numbers: see `test_architectures.py`.
SAME_ORDER = 1e-5
# llama.cpp keeps windows in a ring, and so sums in another order; queries of phi3 it scales before they
# are rounded to eight bits, not after.
OTHER_ORDER = {"sliding window": 1e-3, "fused": 1e-2}
LENGTH, PREFILL, FEW = 300, 260, 52
FEW_BY_FEW = range(0, PREFILL, FEW)


def tokens_of(model: TinyModel) -> list[int]:
    return np.random.default_rng(1).integers(0, model.vocabulary_size, LENGTH).tolist()


def types(keys: CacheType, values: CacheType) -> CacheTypes:
    return CacheTypes(keys=keys, values=values)


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        *(("llama", pair) for pair in PAIRS),
        *((name, PAIRS[0]) for name in MODELS if name != "llama"),
    ],
)
def test_logits_equal_llama_cpp_with_the_same_types(
    name: str, pair: tuple[CacheType, CacheType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of few tokens. llama.cpp turns what it quantizes first; told not to, it is the same."""
    monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "1")
    path = write(MODELS[name], tmp_path / "model.gguf")
    ids = tokens_of(MODELS[name])
    span = open_span(path, num_cells=1024, cache_types=types(*pair))
    sequence = span.open([ids[0]], LENGTH)
    ours = [span.forward([Slice(sequence, ids[i : i + FEW])], "last").copy() for i in FEW_BY_FEW]
    ours += [span.forward([Slice(sequence, [t])], "last").copy() for t in ids[PREFILL:]]
    with LlamaCpp(path, n_ctx=1024, type_k=TYPES[pair[0]], type_v=TYPES[pair[1]]) as oracle:
        theirs = [oracle.prefill(ids[i : i + FEW], start=i)[-1] for i in FEW_BY_FEW]
        theirs += [oracle.step(ids[i], i) for i in range(PREFILL, LENGTH)]
    difference = np.abs(np.concatenate(ours) - np.stack(theirs)).max()
    assert difference <= OTHER_ORDER.get(name, SAME_ORDER) * np.abs(theirs).max()
    span.close()


@pytest.mark.parametrize("name", MODELS)
def test_many_tokens_at_once_give_what_few_by_few_do(name: str, tmp_path: Path) -> None:
    """A prompt attends to numbers of full width, made of those that are kept; also on a second turn."""
    path = write(MODELS[name], tmp_path / "model.gguf")
    ids = tokens_of(MODELS[name])
    span = open_span(path, num_cells=1024, cache_types=types("q8_0", "q4_0"))
    rows = {}
    for size in (PREFILL // 2, FEW // 2):
        sequence = span.open([ids[0]], LENGTH)
        for i in range(0, PREFILL, size):
            rows[size] = span.forward([Slice(sequence, ids[i : i + size])], "last").copy()
        span.release(sequence, keep=False)
    many, few = rows.values()
    np.testing.assert_allclose(many, few, atol=2e-2 * np.abs(few).max())
    span.close()


@pytest.mark.parametrize("pair", [("q8_0", "q4_0"), ("f16", "q4_0")], ids="-".join)
def test_texts_move_and_share_whatever_they_are_kept_in(
    pair: tuple[CacheType, CacheType], tmp_path: Path
) -> None:
    """Copied beginnings, moved extents, graphs elsewhere: keys and values differ in size."""
    model = replace(MODELS["llama"], num_blocks=3)
    path = write(model, tmp_path / "model.gguf")
    ids = tokens_of(model)

    def answer(span, sequence):
        rows = [span.forward([Slice(sequence, ids[sequence.length : PREFILL])], "last").copy()]
        return rows + [span.forward([Slice(sequence, [t])], "last").copy() for t in ids[PREFILL:]]

    span = open_span(path, num_cells=4096, cache_types=types(*pair))
    first = span.open(ids[:PREFILL], LENGTH)
    expected = answer(span, first)
    span.release(first, keep=True)
    in_the_way = span.open([5] * 20, 256)
    for _ in range(2):
        # Shares up to the last token that it is opened for, cut from a longer text or copied.
        second = span.open(ids[:PREFILL], LENGTH)
        assert second.length == PREFILL - 1
        span.grow(second, 1024)
        rows = answer(span, second)
        np.testing.assert_allclose(rows, expected, atol=2e-2 * np.abs(expected).max())
    span.release(in_the_way, keep=False)
    span.close()


def test_fewer_bits_take_less_memory(tmp_path: Path) -> None:
    path = write(MODELS["llama"], tmp_path / "model.gguf")
    _, h = read_model(GGUFFile.open(path))
    sizes = {kind: token_bytes(h, types(kind, kind)) for kind in CACHE_TYPES}
    assert sizes["q8_0"] / sizes["f16"] == pytest.approx(0.53, abs=0.002)
    assert sizes["q4_0"] / sizes["f16"] == pytest.approx(0.28, abs=0.002)
    assert token_bytes(h, types("q8_0", "f16")) == (sizes["q8_0"] + sizes["f16"]) / 2
    spans = [open_span(path, cache_types=types(kind, kind)) for kind in CACHE_TYPES]
    assert [span.cache.token_bytes for span in spans] == [2 * sizes[kind] for kind in CACHE_TYPES]
    for span in spans:
        span.close()


def test_heads_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    """One line, before anything is loaded for nothing."""
    path = write(TinyModel("llama", head_size=16), tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="heads of 16 numbers cannot be kept as q8_0") as refused:
        open_span(path, cache_types=types("q8_0", "f16"))
    assert refused.value.code == "cache.type" and "f16" in (refused.value.hint or "")
