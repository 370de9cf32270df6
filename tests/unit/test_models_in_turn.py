"""Models that take turns: what is asked for comes, and who gives up leaves everything as it was."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from baremetalrt.core.units import MIB
from baremetalrt.devices.budget import MemoryLedger
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.node.resident_models import ResidentModels
from baremetalrt.weights.store import StoredModel
from session_kit import run_async


@pytest.fixture
def resident(talking_model: Path, tmp_path: Path) -> Iterator[tuple[Node, ResidentModels]]:
    """Two models, and a machine that has room for one."""
    ledger = MemoryLedger(lambda: (30 + 6) * MIB)
    options = ModelOptions(num_threads=1, context=256, repack=False)
    node = Node(options, ledger=ledger, serves=True)
    # It counts with its full size then.
    node.templates.close()
    resident = ResidentModels(node)
    for name in ("one", "two"):
        path = tmp_path / f"{name}.gguf"
        path.symlink_to(talking_model)
        resident.begin(Opening(StoredModel(name, path, is_default=False)))
    yield node, resident
    node.close()


@run_async
async def test_the_other_one_makes_way(resident: tuple[Node, ResidentModels]) -> None:
    node, models = resident
    assert list(node.models) == ["one"] and list(models.waiting) == ["two"]
    await models.load("two")
    assert list(node.models) == ["two"] and list(models.waiting) == ["one"]


@run_async
async def test_who_gives_up_leaves_what_answers(resident: tuple[Node, ResidentModels]) -> None:
    """Somebody waits for a model to make way, and goes: that one is found again, and still answers."""
    node, models = resident
    with node.models["one"].use.begun():
        loading = asyncio.ensure_future(models.load("two"))
        while "one" in node.models:
            await asyncio.sleep(0.01)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert list(node.models) == ["one"]
    await models.load("two")
    assert list(node.models) == ["two"]
