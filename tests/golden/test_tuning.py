"""Tuning in place: the losses and gradients of plain `transformers` and `peft`, the engine's logits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import psutil
import pytest
import torch

from architecture_cases import CASES, WIDE, run, tokens_of
from baremetalrt.core.errors import UsageError
from baremetalrt.tuning.config import METHODS, TuneConfig
from baremetalrt.tuning.evaluation import answers
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.trained_adapter import TrainableAdapter, footprint_of
from plain_tuning import plain_model
from tiny_models import TinyModel, write
from tiny_spans import open_span

# Both sides multiply in 32-bit floats, in another order.
SAME_SUMS = 2e-4
# The engine keeps keys and values in half precision: steps of 2**-11.
HALF_PRECISION = 2e-3
TYPES = [
    *("F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
]
# `transformers` refuses widths that the heads do not divide.
TUNABLE = sorted(set(CASES) - {"llama-heads"})
LENGTH = 70


def loss_and_gradients(network: torch.nn.Module, losses: torch.Tensor) -> dict[str, torch.Tensor]:
    loss = losses.mean()
    loss.backward()
    found = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **found}


def compare(model: TinyModel, path: Path, config: TuneConfig, *, checkpointing: bool) -> None:
    """One step of both on two rows, some of whose labels are ignored; `B` is no longer zero."""
    write(model, path)
    ids = torch.from_numpy(tokens_of(model, 2 * LENGTH).reshape(2, LENGTH).astype(np.int64))
    labels = ids.roll(-1, dims=1)
    labels[0, -20:] = -100
    ours = TunableModel(path, num_threads=2, logits_bytes=4 * model.vocabulary_size * 32)
    ours.set_checkpointing(checkpointing)
    adapter = TrainableAdapter(ours, config, 4, "tiny")
    torch.manual_seed(1)
    for parameter in adapter.parameters.values():
        torch.nn.init.normal_(parameter, std=0.1)

    plain = plain_model(path)
    tuned = peft.get_peft_model(plain, adapter.config)
    theirs_by_name = {n: p for n, p in tuned.named_parameters() if p.requires_grad}
    assert set(theirs_by_name) == set(adapter.parameters)
    with torch.no_grad():
        for name, parameter in theirs_by_name.items():
            parameter.copy_(adapter.parameters[name])

    ours.network.train()
    found = loss_and_gradients(adapter.peft, ours.token_losses(ids, labels))
    logits = tuned(input_ids=ids).logits.flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="none")
    expected = loss_and_gradients(tuned, losses[labels.flatten() != -100])
    largest = max(float(g.abs().max()) for n, g in expected.items() if n != "loss")
    assert torch.allclose(found["loss"], expected["loss"], rtol=SAME_SUMS)
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((found[name] - gradient).abs().max()) <= SAME_SUMS * scale, name
    ours.close()


@pytest.mark.parametrize("name", TUNABLE)
def test_first_step_equals_plain_transformers_and_peft(name: str, tmp_path: Path) -> None:
    """Loss and every gradient of the adapter, for every architecture, unquantized."""
    compare(CASES[name], tmp_path / "model.gguf", TuneConfig(), checkpointing=True)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_without_checkpointing_it_equals_them_too(name: str, tmp_path: Path) -> None:
    """Where memory suffices, everything is kept but the weights."""
    compare(CASES[name], tmp_path / "model.gguf", TuneConfig(), checkpointing=False)


@pytest.mark.parametrize("weights", TYPES)
def test_first_step_equals_the_dequantized_model(weights: str, tmp_path: Path) -> None:
    """For every type of weights, with what checkpointing keeps and computes again."""
    model = replace(CASES["qwen2"], weights=weights, **WIDE)
    compare(model, tmp_path / "model.gguf", TuneConfig(), checkpointing=True)


@pytest.mark.parametrize("name", ["llama", "phi3", "qwen3moe"])
def test_quantized_rows_are_reordered(name: str, tmp_path: Path) -> None:
    """Reordered heads, fused matrices and experts, quantized."""
    model = replace(CASES[name], weights="Q4_0", **WIDE)
    compare(model, tmp_path / "model.gguf", TuneConfig(), checkpointing=True)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_gradients_of_peft(method: str, tmp_path: Path) -> None:
    """LoRA, rank-stabilized LoRA, DoRA; the latter needs norms of reordered weights."""
    model = replace(CASES["llama"], weights="Q8_0", **WIDE)
    compare(model, tmp_path / "model.gguf", TuneConfig(method=method), checkpointing=True)


def test_targets_by_name_and_by_pattern(tmp_path: Path) -> None:
    """Only what is named is adapted."""
    path = write(CASES["llama"], tmp_path / "model.gguf")
    for targets, count in (("q_proj,v_proj", 4), (r".*layers\.1\.mlp\..*_proj", 3)):
        model = TunableModel(path, num_threads=1)
        adapter = TrainableAdapter(model, TuneConfig(targets=targets), 2, "tiny")
        assert len(adapter.parameters) == 2 * count
        # A tiny model in a process with all of PyTorch.
        resident = psutil.Process().memory_info().rss
        assert 0.9 * resident <= footprint_of(model, targets).runtime_bytes <= 1.5 * resident
        model.close()


@pytest.mark.parametrize("targets", [r".*mlp\.gate", r".*(q_proj|gate)", "lm_head", "nothing"])
def test_what_has_no_form_in_gguf_is_refused_before_it_is_tuned(
    targets: str, tmp_path: Path
) -> None:
    """Routers of experts, alone or among others, the head, and what is not there."""
    model = TunableModel(write(CASES["qwen3moe"], tmp_path / "model.gguf"), num_threads=1)
    with pytest.raises(UsageError) as caught:
        TrainableAdapter(model, TuneConfig(targets=targets), 2, "tiny")
    assert caught.value.code == "tune.targets" and "q_proj" in str(caught.value.hint)
    model.close()


@pytest.mark.parametrize("name", TUNABLE)
def test_the_untuned_model_gives_the_logits_of_the_engine(name: str, tmp_path: Path) -> None:
    """What is tuned is what runs: both read the same file alike. Past every sliding window."""
    model = CASES[name]
    path = write(model, tmp_path / "model.gguf")
    tokens = tokens_of(model, 150)
    tunable = TunableModel(path, num_threads=2)
    with torch.no_grad():
        hidden = tunable.hidden(torch.from_numpy(tokens[None].astype(np.int64)))
        ours = tunable.head.logits(hidden[0]).numpy()
    span = open_span(path, num_cells=8192)
    theirs = run(span, tokens, [150])
    span.close()
    tunable.close()
    differences = np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max()
    # A row on the edge between two experts may go to the other one.
    allowed = 3 if model.num_experts else 0
    assert (differences > HALF_PRECISION).sum() <= allowed


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "phi3", "qwen3moe"])
def test_answers_at_once_are_those_of_each_text_alone(name: str, tmp_path: Path) -> None:
    """Though shorter ones are filled up: what whole passes over each text say, past every window."""
    model = CASES[name]
    tunable = TunableModel(write(model, tmp_path / "model.gguf"), num_threads=2)
    prompts = [tokens_of(replace(model, seed=i), n).tolist() for i, n in enumerate((5, 90, 41))]
    alone = []
    with torch.no_grad():
        for prompt in prompts:
            text = list(prompt)
            for _ in range(12):
                hidden = tunable.hidden(torch.tensor([text]))
                text.append(int(tunable.head.logits(hidden[0, -1:]).argmax()))
            alone.append(text[len(prompt) :])
    assert answers(tunable, prompts, 12, frozenset()) == alone
    end = alone[0][4]
    until = [said[: said.index(end)] if end in said else said for said in alone]
    assert answers(tunable, prompts, 12, frozenset([end])) == until
    tunable.close()
