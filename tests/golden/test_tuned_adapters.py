"""An adapter that was tuned says the same three times: in `peft`, in our graphs, in llama.cpp."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from architecture_cases import CASES, CONTEXT, WIDE, tokens_of
from baremetalrt.blocks.loaded_adapters import AdapterSet, WeightedAdapter
from baremetalrt.tuning.config import Method, TuneConfig
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.trained_adapter import TrainableAdapter
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora
from baremetalrt.weights.adapters.merge import merge
from baremetalrt.weights.adapters.store import complete_trained
from baremetalrt.weights.gguf import GGUFFile
from golden.test_adapter_logits import TOLERANCE, assert_close, differ, run
from golden.test_tuning import HALF_PRECISION, TUNABLE
from oracle import LlamaCpp
from tiny_models import TinyModel, write
from tiny_spans import open_span

Logits = NDArray[np.float32]
LENGTH = 60
# Adapters as strong as these, which nearly double what reaches the logits, enlarge what keys and values
# in half precision, and eight bits per activation of quantized products, take away.
TWICE_ROUNDED = 2 * HALF_PRECISION
QUANTIZED = 0.08


def in_peft(path: Path, saved: Path, config: TuneConfig, tokens: NDArray[np.int32]) -> Logits:
    """The logits of a random adapter of rank 4 in `peft`; it is saved as one that was tuned is."""
    tunable = TunableModel(path, num_threads=2)
    adapter = TrainableAdapter(tunable, config, 4, "tiny")
    torch.manual_seed(1)
    for name, parameter in adapter.parameters.items():
        if "magnitude" in name:
            parameter.data *= torch.empty_like(parameter).uniform_(0.8, 1.3)
        else:
            torch.nn.init.normal_(parameter, std=0.08)
    adapter.peft.eval()
    with torch.no_grad():
        ids = torch.from_numpy(tokens[None].astype(np.int64))
        logits: Logits = tunable.head.logits(tunable.hidden(ids)[0]).numpy()
    adapter.save(saved)
    tunable.close()
    complete_trained(saved, GGUFFile.open(path), base_name="tiny")
    return logits


def in_ours(path: Path, lora: Path | None, tokens: NDArray[np.int32], scale: float = 1.0) -> Logits:
    span = open_span(path, num_cells=8192)
    used = AdapterSet((WeightedAdapter(read_gguf_lora(lora), scale),)) if lora else None
    logits = run(span, tokens, (LENGTH,), used)
    span.close()
    return logits


def compare(model: TinyModel, folder: Path, config: TuneConfig) -> None:
    path = write(model, folder / "model.gguf")
    tokens = tokens_of(model, LENGTH)
    trained = in_peft(path, folder / "tuned", config, tokens)
    lora = folder / "tuned" / "adapter.gguf"
    ours = in_ours(path, lora, tokens)
    if config.method == "dora":
        # Which has no file that llama.cpp reads: it is given the sum.
        merge(GGUFFile.open(path), [(read_gguf_lora(lora), 1.0)], folder / "merged.gguf")
        with LlamaCpp(folder / "merged.gguf", n_ctx=CONTEXT) as oracle:
            theirs = oracle.prefill(tokens.tolist())
    else:
        with LlamaCpp(path, n_ctx=CONTEXT) as oracle:
            oracle.use_adapters((lora, 1.0))
            theirs = oracle.prefill(tokens.tolist())
    assert differ(ours, in_ours(path, None, tokens)) > 0.05
    assert_close(ours, theirs, TOLERANCE)
    differences = np.abs(ours - trained).max(axis=1) / np.abs(trained).max()
    # A row on the edge between two experts may go to the other one.
    allowed = 3 if model.num_experts else 0
    assert (differences > TWICE_ROUNDED).sum() <= allowed


@pytest.mark.parametrize("name", TUNABLE)
def test_a_tuned_adapter_is_the_same_everywhere(name: str, tmp_path: Path) -> None:
    """For every architecture: reordered heads, fused matrices, scaled norms."""
    compare(CASES[name], tmp_path, TuneConfig())


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3", "gemma2"])
def test_so_is_one_with_magnitudes(name: str, tmp_path: Path) -> None:
    """DoRA: rows reordered, with biases, fused, with norms behind; llama.cpp is given the sum."""
    compare(CASES[name], tmp_path, TuneConfig(method="dora"))


@pytest.mark.parametrize("weights", ["Q4_0", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("method", ["rslora", "dora"])
def test_on_quantized_weights_it_is_too(weights: str, method: Method, tmp_path: Path) -> None:
    """The engine multiplies quantized rows as they are, within what its quantized inputs cost."""
    model = replace(CASES["llama"], weights=weights, **WIDE)
    path = write(model, tmp_path / "model.gguf")
    tokens = tokens_of(model, LENGTH)
    trained = in_peft(path, tmp_path / "tuned", TuneConfig(method=method), tokens)
    ours = in_ours(path, tmp_path / "tuned" / "adapter.gguf", tokens)
    # Activations are quantized to eight bits on the way into each product.
    assert_close(ours, trained, QUANTIZED)


def test_half_of_an_adapter_is_half_of_what_it_changes(tmp_path: Path) -> None:
    """Also of DoRA, and of one and a half of the same one: its weights add up."""
    path = write(CASES["llama"], tmp_path / "model.gguf")
    tokens = tokens_of(CASES["llama"], LENGTH)
    in_peft(path, tmp_path / "tuned", TuneConfig(method="dora"), tokens)
    lora = tmp_path / "tuned" / "adapter.gguf"
    adapter = read_gguf_lora(lora)
    twice = AdapterSet((WeightedAdapter(adapter, 1.5), WeightedAdapter(adapter, -1.0)))
    span = open_span(path, num_cells=8192)
    in_parts = run(span, tokens, (LENGTH,), twice)
    span.close()
    half = in_ours(path, lora, tokens, 0.5)
    assert_close(in_parts, half, TOLERANCE)
    merge(GGUFFile.open(path), [(adapter, 1.5), (adapter, -1.0)], tmp_path / "merged.gguf")
    assert_close(in_ours(tmp_path / "merged.gguf", None, tokens), half, TOLERANCE)
    assert differ(half, in_ours(path, lora, tokens)) > 0.05


def test_llama_cpp_refuses_magnitudes(tmp_path: Path) -> None:
    """Rather than computing without them."""
    path = write(CASES["llama"], tmp_path / "model.gguf")
    in_peft(path, tmp_path / "tuned", TuneConfig(method="dora"), tokens_of(CASES["llama"], LENGTH))
    with LlamaCpp(path, n_ctx=CONTEXT) as oracle, pytest.raises(ValueError, match="lora_row_scale"):
        oracle.use_adapters((tmp_path / "tuned" / "adapter.gguf", 1.0))
