"""Adapters give llama.cpp's logits: the same base, the same GGUF LoRA, the same library.

The tolerance is a share of the largest logit. Scales are applied before a product here and after it
there, and the factors of several adapters are summed in one product: that is rounding of single
precision, which attention then stores in half precision (steps of 5e-4).
"""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from architecture_cases import CASES, CONTEXT, OTHER_ORDER, WIDE, tokens_of
from baremetalrt.blocks.loaded_adapters import AdapterSet, WeightedAdapter
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Reads, Slice
from baremetalrt.core.spans import BlockSpan
from baremetalrt.weights.adapters.adapter import check_fits
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora
from baremetalrt.weights.adapters.merge import merge
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import find_model
from oracle import LlamaCpp
from tiny_adapters import random_adapter, write_adapter
from tiny_models import quantize, write
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


def rms(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The difference as a share, both as root mean squares."""
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


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


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3", "qwen3moe"])
def test_factors_by_rows_equal_factors_by_columns(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other devices have them; they are computed here on the CPU."""
    model = CASES[name]
    path = write(model, tmp_path / "model.gguf")
    adapters = adapter_set((write_adapter(random_adapter(path), tmp_path / "a.gguf"), 1.0))
    tokens = tokens_of(model, 60)
    found = []
    for by_rows in (False, True):
        monkeypatch.setattr(
            "baremetalrt.blocks.loaded_adapters.lies_by_rows", lambda _, r=by_rows: r
        )
        span = open_span(path, num_cells=8192)
        found.append(run(span, tokens, (40, 1, 19), adapters))
        span.close()
    assert_close(found[1], found[0], TOLERANCE)


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3", "qwen3moe"])
def test_sessions_with_different_adapters_equal_each_alone(name: str, tmp_path: Path) -> None:
    """Decoding in turns, those with the same set as one batch: nobody gets another's numbers."""
    model = CASES[name]
    path = write(model, tmp_path / "model.gguf")
    one = write_adapter(random_adapter(path, seed=1), tmp_path / "one.gguf")
    two = write_adapter(random_adapter(path, seed=2), tmp_path / "two.gguf")
    sets = [
        None,
        adapter_set((one, 1.0)),
        adapter_set((one, 0.5), (two, 1.0)),
        adapter_set((one, 1.0)),
        None,
    ]
    span = open_span(path, num_cells=8192)
    texts = [tokens_of(replace(model, seed=i), n) for i, n in enumerate((90, 40, 65, 70, 55))]
    alone = [
        run(span, t, (len(t) - 6, *[1] * 6), adapters, "last")[1:]
        for t, adapters in zip(texts, sets, strict=True)
    ]
    sequences = [
        span.open([i], len(t), adapters=adapters)
        for i, (t, adapters) in enumerate(zip(texts, sets, strict=True))
    ]
    for sequence, t in zip(sequences, texts, strict=True):
        span.forward([Slice(sequence, t[:-6].tolist())], "none")
    for step in range(6):
        for batch in ((0, 4), (1, 3), (2,)):
            slices = [Slice(sequences[i], [int(texts[i][len(texts[i]) - 6 + step])]) for i in batch]
            for i, row in zip(batch, span.forward(slices, "last"), strict=True):
                assert_close(row, alone[i][step], OTHER_ORDER)
    with pytest.raises(ValueError, match="same adapters"):
        span.forward([Slice(sequences[0], [1]), Slice(sequences[1], [1])], "last")
    assert differ(alone[1], alone[3]) > 0.05
    span.close()


def test_spans_in_a_row_with_an_adapter_equal_the_whole(tmp_path: Path) -> None:
    """Each span takes what belongs to its blocks, and the ends what belongs to them."""
    model = replace(CASES["llama"], num_blocks=5)
    path = write(model, tmp_path / "model.gguf")
    adapters = adapter_set((write_adapter(random_adapter(path), tmp_path / "a.gguf"), 1.0))
    tokens = tokens_of(model, 50)
    whole = open_span(path, num_cells=8192)
    first, last = (
        open_span(path, num_cells=8192, blocks=b) for b in (BlockSpan(0, 2), BlockSpan(2, 5))
    )
    a, b = (span.open([1], 50, adapters=adapters) for span in (first, last))
    x_TD = first.forward([Slice(a, tokens.tolist())], "all")
    ours = last.forward([Slice(b, tokens.tolist(), x_TD)], "all").copy()
    np.testing.assert_array_equal(ours, run(whole, tokens, (50,), adapters))
    for span in (whole, first, last):
        span.close()


@pytest.mark.parametrize("architecture", ["llama", "gemma", "phi3"])
def test_joined_gate_and_up_are_adapted_like_two(architecture: str, tmp_path: Path) -> None:
    """Where the file lets one multiplication do for both, also when only one of them is adapted."""
    model = replace(CASES[architecture], weights="Q4_0", **WIDE)
    path = write(model, tmp_path / "model.gguf")
    tokens = tokens_of(model, 60)
    span = open_span(path, num_cells=8192)
    for part in ("ffn_gate", "ffn_up", "attn_k", "ffn_"):
        adapter = random_adapter(path, targets=lambda name, part=part: part in name)
        if not adapter.matrices:
            continue
        file = write_adapter(adapter, tmp_path / f"{part}.gguf")
        with LlamaCpp(path, n_ctx=CONTEXT) as oracle:
            oracle.use_adapters((file, 1.0))
            theirs = oracle.prefill(tokens.tolist())
        assert_close(run(span, tokens, (60,), adapter_set((file, 1.0))), theirs, OTHER_ORDER)
    span.close()


@pytest.mark.slow
def test_smollm2_with_adapters_equals_llama_cpp(tmp_path: Path) -> None:
    """The embedded default, quantized, with rank 8 on all linear layers: a prompt, then 24 tokens.

    What enters a quantized product is rounded to eight bits, so one last bit can move every logit:
    llama.cpp itself is moved by as much when a weight of 1 becomes 1.000001. That is the measure.
    """
    path = find_model(None).path
    one = write_adapter(random_adapter(path, rank=8, seed=1, strength=0.2), tmp_path / "one.gguf")
    two = write_adapter(random_adapter(path, rank=16, seed=2, strength=0.2), tmp_path / "two.gguf")
    span = open_span(path, num_cells=4096)
    for used in ([(one, 1.0)], [(one, 0.5), (two, 0.8)]):
        adapters = adapter_set(*used)
        with LlamaCpp(path, n_ctx=CONTEXT) as oracle:
            prompt = oracle.tokenize("Once upon a time there was a torrent, and everybody had it.")
            plain = oracle.prefill(prompt)
            oracle.use_adapters(*((file, scale * 1.000001) for file, scale in used))
            nudged = oracle.prefill(prompt)
            oracle.use_adapters(*used)
            theirs = oracle.prefill(prompt)
            tolerance = 2 * max(rms(nudged, theirs), 0.01)
            assert rms(theirs, plain) > 3 * tolerance
            sequence = span.open(prompt, 200, adapters=adapters)
            ours = span.forward([Slice(sequence, prompt)], "all").copy()
            assert rms(ours, theirs) <= tolerance
            logits_V = ours[-1]
            steps: list[list[NDArray[np.float32]]] = [[], []]
            for i in range(24):
                token = int(logits_V.argmax())
                logits_V = span.forward([Slice(sequence, [token])], "last")[0].copy()
                steps[0].append(logits_V)
                steps[1].append(oracle.step(token, len(prompt) + i))
            assert rms(np.stack(steps[0]), np.stack(steps[1])) <= tolerance
        span.release(sequence, keep=False)
    span.close()


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_adapters_of_other_writers_equal_llama_cpp(kind: str, tmp_path: Path) -> None:
    """Written by the `gguf` package, with half or quantized factors and no word of a base."""
    model = replace(CASES["qwen2"], **WIDE)
    path = write(model, tmp_path / "model.gguf")
    adapter = random_adapter(path, rank=32)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen2")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.alpha)
    for name, m in adapter.matrices.items():
        for factor, values in (("lora_a", m.a_RD), ("lora_b", m.b_FR)):
            if kind == "F16":
                writer.add_tensor(f"{name}.{factor}", values.astype(np.float16))
            else:
                raw = quantize(values, kind)
                kind_ = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(f"{name}.{factor}", raw, raw_dtype=kind_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokens = tokens_of(model, 60)
    with LlamaCpp(path, n_ctx=CONTEXT) as oracle:
        oracle.use_adapters((tmp_path / "a.gguf", 0.9))
        theirs = oracle.prefill(tokens.tolist())
    span = open_span(path, num_cells=8192)
    ours = run(span, tokens, (60,), adapter_set((tmp_path / "a.gguf", 0.9)))
    # What they multiply by in eight or sixteen bits, rounding the other side likewise, we do in single.
    assert_close(ours, theirs, OTHER_ORDER)
    span.close()


# As a share of all logits: what writing the sum in so many bits does to a random model.
MERGE_TOLERANCE = {"F32": 1e-3, "F16": 1e-2, "Q8_0": 0.1}


@pytest.mark.parametrize("weights", MERGE_TOLERANCE)
def test_llama_cpp_computes_a_merged_file_like_base_and_adapter(
    weights: str, tmp_path: Path
) -> None:
    """The sum of one product and of two; what is between them is the quantization."""
    model = replace(CASES["llama"], weights=weights, **WIDE)
    path = write(model, tmp_path / "model.gguf")
    file = write_adapter(random_adapter(path, strength=1.0), tmp_path / "a.gguf")
    merge(GGUFFile.open(path), [(read_gguf_lora(file), 0.8)], tmp_path / "merged.gguf")
    tokens = tokens_of(model, 60).tolist()
    with LlamaCpp(path, n_ctx=CONTEXT) as oracle:
        plain = oracle.prefill(tokens)
        oracle.use_adapters((file, 0.8))
        theirs = oracle.prefill(tokens)
    with LlamaCpp(tmp_path / "merged.gguf", n_ctx=CONTEXT) as oracle:
        merged = oracle.prefill(tokens)
    assert rms(merged, theirs) <= MERGE_TOLERANCE[weights]
    assert rms(plain, theirs) > 0.5
