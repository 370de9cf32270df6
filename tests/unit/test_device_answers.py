"""What is found out about devices: by processes that may die of it, once, and kept if it holds."""

from dataclasses import asdict
from pathlib import Path

import pytest

from baremetalrt.blocks.cache_types import CacheTypes
from baremetalrt.core.places import device_rates_file, device_trials_file
from baremetalrt.core.spans import BlockSpan
from baremetalrt.devices import rates
from baremetalrt.devices.kept import KeptAnswers, key_of
from baremetalrt.devices.rates import MatrixKind, rates_of
from baremetalrt.native.backend import BackendDevice, find_device
from baremetalrt.node import device_trials
from baremetalrt.node.device_trials import wrong_with
from baremetalrt.weights.gguf import GGUFFile
from tiny_models import TinyModel, write

KIND = MatrixKind(type=8, width=256)
SAYS = "import json; print(json.dumps({}))\n"
DIES = "import os; os.abort()\n"
FAILS = "raise MemoryError\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def device() -> BackendDevice:
    return find_device("cpu")


@pytest.fixture
def file(tmp_path: Path) -> GGUFFile:
    return GGUFFile.open(write(TinyModel("llama"), tmp_path / "model.gguf"))


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(text)
    return path


def test_a_device_is_measured_once(
    device: BackendDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = rates_of(device, KIND)
    assert measured is not None and measured.byte_s > 0 and measured.operations_per_s > 0
    monkeypatch.setattr(rates, "_WORKER", script(tmp_path, DIES))
    assert rates_of(device, KIND) == measured
    assert rates_of(device, MatrixKind(type=8, width=512)) is None
    assert rates_of(device, KIND, anew=True) is None


@pytest.mark.parametrize(("text", "is_kept"), [(DIES, True), (SAYS, True), (FAILS, False)])
def test_only_a_fault_is_kept(
    device: BackendDevice,
    file: GGUFFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    is_kept: bool,
) -> None:
    """Want of memory passes; what a driver does to the program, or does not know, stays."""
    worker = script(tmp_path, text.format({"unsupported": "no such operation"}))
    monkeypatch.setattr(rates, "_WORKER", worker)
    monkeypatch.setattr(device_trials, "_WORKER", worker)
    assert rates_of(device, KIND) is None
    wrong = wrong_with(device, file, BlockSpan(0, 2), CacheTypes())
    assert wrong and (text != DIES or "SIGABRT" in wrong)
    for path in (device_rates_file(), device_trials_file()):
        assert len(KeptAnswers(path).all()) == is_kept


def test_blocks_are_tried_against_the_host(
    device: BackendDevice, file: GGUFFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host computes like itself, and what is a tenth off is wrong."""
    assert wrong_with(device, file, BlockSpan(0, 2), CacheTypes()) is None
    assert list(KeptAnswers(device_trials_file()).all().values()) == [""]
    far = script(tmp_path, SAYS.format({"difference": 0.5}))
    monkeypatch.setattr(device_trials, "_WORKER", far)
    assert wrong_with(device, file, BlockSpan(0, 2), CacheTypes()) is None
    assert "50 % off" in str(wrong_with(device, file, BlockSpan(0, 1), CacheTypes()))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"x": 1}'])
def test_a_damaged_file_of_answers_is_none(device: BackendDevice, content: bytes) -> None:
    device_rates_file().write_bytes(content)
    assert rates_of(device, KIND) is not None
    kept = KeptAnswers(device_rates_file()).all()
    assert key_of(device, asdict(KIND)) in kept
