"""An adapter that was tuned says the same three times: in `peft`, in our graphs, in llama.cpp."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baremetalrt.blocks.adapters import AdapterSet, WeightedAdapter
from baremetalrt.tuning.adapter import Adapter
from baremetalrt.tuning.config import TuneConfig
from baremetalrt.tuning.model import TunableModel
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora
from baremetalrt.weights.adapters.store import complete_trained
from baremetalrt.weights.gguf import GGUFFile
from golden.test_adapter_logits import TOLERANCE, assert_close, differ, run
from golden.test_architectures import _WIDE, CASES, CONTEXT, tokens_of
from golden.test_tuning import HALF_PRECISION, TUNABLE
from oracle import LlamaCpp
from tiny_models import TinyModel, write
from tiny_spans import open_span

LENGTH = 60
# Adapters as strong as these, which nearly double what reaches the logits, enlarge what keys and values
# in half precision, and eight bits per activation of quantized products, take away.
TWICE_ROUNDED = 2 * HALF_PRECISION
QUANTIZED = 0.08


def compare(model: TinyModel, folder: Path, config: TuneConfig) -> None:
    path = write(model, folder / "model.gguf")
    tokens = tokens_of(model, LENGTH)
    tunable = TunableModel(path, num_threads=2)
    adapter = Adapter(tunable, config, 4, "tiny")
    torch.manual_seed(1)
    for parameter in adapter.parameters.values():
        torch.nn.init.normal_(parameter, std=0.08)
    adapter.peft.eval()
    with torch.no_grad():
        ids = torch.from_numpy(tokens[None].astype(np.int64))
        in_peft = tunable.head.logits(tunable.hidden(ids)[0]).numpy()
    saved = folder / "tuned"
    adapter.save(saved)
    tunable.close()
    complete_trained(saved, GGUFFile.open(path), base_name="tiny")

    lora = saved / "adapter.gguf"
    span = open_span(path, num_cells=8192)
    members = (WeightedAdapter(read_gguf_lora(lora), 1.0),)
    ours = run(span, tokens, (LENGTH,), AdapterSet(members))
    plain = run(span, tokens, (LENGTH,), None)
    span.close()
    with LlamaCpp(path, n_ctx=CONTEXT) as oracle:
        oracle.use_adapters((lora, 1.0))
        theirs = oracle.prefill(tokens.tolist())
    assert differ(ours, plain) > 0.05
    assert_close(ours, theirs, TOLERANCE)
    differences = np.abs(ours - in_peft).max(axis=1) / np.abs(in_peft).max()
    # A row on the edge between two experts may go to the other one.
    allowed = 3 if model.num_experts else 0
    assert (differences > TWICE_ROUNDED).sum() <= allowed


@pytest.mark.parametrize("name", TUNABLE)
def test_a_tuned_adapter_is_the_same_everywhere(name: str, tmp_path: Path) -> None:
    """For every architecture: reordered heads, fused matrices, scaled norms."""
    compare(CASES[name], tmp_path, TuneConfig())


@pytest.mark.parametrize("weights", ["Q4_0", "Q8_0", "Q4_K", "Q6_K"])
def test_on_quantized_weights_it_is_too(weights: str, tmp_path: Path) -> None:
    """The engine multiplies quantized rows as they are, within what its quantized inputs cost."""
    model = replace(CASES["llama"], weights=weights, **_WIDE)
    path = write(model, tmp_path / "model.gguf")
    tokens = tokens_of(model, LENGTH)
    tunable = TunableModel(path, num_threads=2)
    adapter = Adapter(tunable, TuneConfig(method="rslora"), 4, "tiny")
    torch.manual_seed(1)
    for parameter in adapter.parameters.values():
        torch.nn.init.normal_(parameter, std=0.08)
    adapter.peft.eval()
    with torch.no_grad():
        ids = torch.from_numpy(tokens[None].astype(np.int64))
        in_peft = tunable.head.logits(tunable.hidden(ids)[0]).numpy()
    adapter.save(tmp_path / "tuned")
    tunable.close()
    complete_trained(tmp_path / "tuned", GGUFFile.open(path), base_name="tiny")
    span = open_span(path, num_cells=8192)
    read = read_gguf_lora(tmp_path / "tuned" / "adapter.gguf")
    ours = run(span, tokens, (LENGTH,), AdapterSet((WeightedAdapter(read, 1.0),)))
    span.close()
    # Activations are quantized to eight bits on the way into each product.
    assert_close(ours, in_peft, QUANTIZED)
