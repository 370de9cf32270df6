"""What a graphics card computes is what the processor does, up to rounding; nothing ends the process."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny_whole
from architecture_cases import CASES, QUANTIZED, WIDE, run, tokens_of
from baremetalrt.blocks.cache_types import CacheType, CacheTypes
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import MIB
from baremetalrt.devices.rates import MatrixKind, Rates, rates_of
from baremetalrt.native.backend import (
    Backend,
    BackendDevice,
    DeviceError,
)
from baremetalrt.node.device_trials import wrong_with
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions, SampleOptions
from baremetalrt.node.text_keeping import save_texts
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel, default_model
from commands import bmrt
from session_kit import answer, assert_same_or_tie, ids, run_async
from tiny_models import TinyModel, write
from tiny_spans import open_span

pytestmark = pytest.mark.devices
# Cards sum in another order, and in half precision where the host has single: see `OTHER_ORDER` there.
_TOLERANCE = 4e-2
_CHUNKS = [128, 1, 71, 1]
_GREEDY = GenerationOptions(
    sampling=SampleOptions(temperature=0.0), max_tokens=12, ignore_end=True, top_logprobs=2
)


def _is_right(model: TinyModel, path: Path, card: BackendDevice, types: CacheTypes) -> None:
    """What is tried, in a process of its own, comes out right, or is found to be wrong and not used."""
    file = GGUFFile.open(write(model, path))
    wrong = wrong_with(card, file, BlockSpan(0, model.num_blocks), types)
    if wrong is not None:
        pytest.skip(wrong)


@pytest.mark.parametrize("case", CASES)
def test_every_architecture(case: str, card: BackendDevice, tmp_path: Path) -> None:
    _is_right(CASES[case], tmp_path / "model.gguf", card, CacheTypes())


@pytest.mark.parametrize("weights", [*QUANTIZED, "F16", "Q6_K", "IQ4_XS", "Q2_K"])
@pytest.mark.parametrize("case", ["llama", "qwen3moe"])
def test_every_type(case: str, weights: str, card: BackendDevice, tmp_path: Path) -> None:
    model = replace(CASES[case], weights=weights, **WIDE)
    _is_right(model, tmp_path / "model.gguf", card, CacheTypes())


@pytest.mark.parametrize("type_", ["q8_0", "q4_0"])
def test_keys_and_values_in_fewer_bits(
    type_: CacheType, card: BackendDevice, tmp_path: Path
) -> None:
    model, types = replace(CASES["llama"], **WIDE), CacheTypes(keys=type_, values=type_)
    _is_right(model, tmp_path / "model.gguf", card, types)


@pytest.mark.parametrize("case", ["llama", "qwen2", "llama3-rope"])
def test_whole_texts(case: str, name: str, tmp_path: Path) -> None:
    """All blocks, in chunks, against the host."""
    path = write(CASES[case], tmp_path / "model.gguf")
    tokens = tokens_of(CASES[case], sum(_CHUNKS))
    rows = []
    for device in ("cpu", name):
        span = open_span(path, device=device)
        rows.append(run(span, tokens, _CHUNKS))
        span.close()
    host, card = rows
    assert np.abs(card - host).max() <= _TOLERANCE * np.abs(host).max()


@pytest.fixture(scope="module", autouse=True)
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What earlier runs found out does not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BMRT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def test_mixtures_run_whatever_the_card_does(name: str, tmp_path: Path) -> None:
    """Where a driver faults at experts, the process does not: somebody else computes them."""
    path = write(replace(CASES["qwen3moe"], **WIDE), tmp_path / "model.gguf")
    span_of = BlockSpan(0, CASES["qwen3moe"].num_blocks)
    node = _node(device=f"{name},cpu")
    try:
        span, _ = node.host(GGUFFile.open(path), span_of, 256)
        tokens = tokens_of(CASES["qwen3moe"], 20)
        assert np.isfinite(run(span, tokens, [20])).all()
    finally:
        node.close()


def _default() -> Opening:
    stored = default_model()
    assert stored is not None
    return Opening(stored)


def _node(**options: object) -> Node:
    return Node(ModelOptions(context=1024, **options), serves=True)  # type: ignore[arg-type]


_PROMPT = [11 * i % 4000 + 300 for i in range(330)]


@pytest.mark.parametrize("room", [None, 60 * MIB])
def test_the_default_model(room: int | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it on the card, or as much as there is room for: the host has the rest."""
    # As if it was the faster one.
    monkeypatch.setattr("baremetalrt.node.device_choice.rates_of", _card_is_faster)
    answers = []
    given = {"device": f"cpu,{name}", "device_memory": ((name, room),) if room else ()}
    for options in ({"device": "cpu"}, given):
        node = _node(**options)
        try:
            model = node.load(_default())
            on = {span.device.name.lower() for span in model.spans}
            answers.append(asyncio.run(answer(model.session(_PROMPT, _GREEDY))))
        finally:
            node.close()
    assert on == ({"cpu", name} if room else {name})
    assert_same_or_tie(answers[1], answers[0])


def _card_is_faster(device: BackendDevice, kind: MatrixKind) -> Rates:
    return Rates(byte_s=1e-9 if device.is_host else 1e-11, step_s=0.0, operations_per_s=1e11)


@pytest.mark.parametrize("steps", [0, 1, 4])
@run_async
async def test_a_card_that_is_lost(
    steps: int, card: BackendDevice, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a prompt, or of an answer: the host goes on, and says so."""
    left, real = [steps], Backend.compute

    def compute(self: Backend, graph: int) -> None:
        if self.device == card:
            left[0] -= 1
            if left[0] < 0:
                raise DeviceError(card, "was lost")
        real(self, graph)

    host = _node(device="cpu")
    alone = await answer(host.load(_default()).session(_PROMPT, _GREEDY))
    host.close()
    monkeypatch.setattr(Backend, "compute", compute)
    node = _node(device=name)
    try:
        model = node.load(_default())
        assert_same_or_tie(await answer(model.session(_PROMPT, _GREEDY)), alone)
        assert [span.device.name.lower() for span in model.spans] == ["cpu"]
    finally:
        node.close()


@run_async
async def test_texts_are_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    answers = []
    for cached in (0, len(_PROMPT) - 1):
        node = _node(device=name, keeps_prefixes=True)
        try:
            model = node.load(_default())
            session = model.session(_PROMPT, _GREEDY)
            answers.append(ids(await answer(session)))
            assert session.stats.cached_tokens == cached
            await save_texts(node, model.spans)
        finally:
            node.close()
    assert answers[0] == answers[1]


def test_a_model_that_runs_whole(name: str, tmp_path: Path) -> None:
    path = tiny_whole.write(tmp_path / "whole.gguf", next(iter(tiny_whole.BLOCKS)))
    prompt = [3 + 7 * i % (tiny_whole.VOCABULARY_SIZE - 3) for i in range(50)]
    answers = []
    for device in ("cpu", name):
        node = _node(device=device)
        try:
            model = node.load(Opening(StoredModel("whole", path, is_default=False)))
            answers.append(asyncio.run(answer(model.session(prompt, _GREEDY))))
        finally:
            node.close()
    assert_same_or_tie(answers[1], answers[0])


def test_it_is_measured_once(
    card: BackendDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    kind = MatrixKind(type=8, width=256)
    first = rates_of(card, kind)
    assert first is not None and first.byte_s > 0
    started = time.monotonic()
    assert rates_of(card, kind) == first
    assert time.monotonic() - started < 0.1


def test_commands(name: str, tmp_path: Path) -> None:
    """Found, measured, planned with, and chosen, without anybody naming it."""
    said = json.loads(bmrt("doctor", "--json", home=tmp_path).stdout)
    assert said["rates"][name]["byte_s"] > 0
    planned = json.loads(bmrt("plan", "--json", "--memory", "60MB", home=tmp_path).stdout)
    assert {device["id"] for device in planned["devices"]} == {"here", f"here/{name}"}
    common = ("run", "-t", "0", "--max-tokens", "8", "Count to five.")
    alone = bmrt(*common, "--device", "cpu", home=tmp_path)
    split = bmrt(*common, "--memory", "cpu=90MB", home=tmp_path)
    assert alone.returncode == split.returncode == 0, split.stderr
    assert split.stdout == alone.stdout and split.stderr == alone.stderr
