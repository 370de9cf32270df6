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


def _names(models: ResidentModels) -> list[str]:
    return [one.name for one in models.waiting()]


def _named(models: ResidentModels, name: str) -> StoredModel:
    (found,) = [one for one in models.waiting() if one.name == name]
    return found


@run_async
async def test_the_other_one_makes_way(resident: tuple[Node, ResidentModels]) -> None:
    node, models = resident
    assert list(node.models) == ["one"] and _names(models) == ["two"]
    await models.load(_named(models, "two"))
    assert list(node.models) == ["two"] and _names(models) == ["one"]


@run_async
async def test_who_gives_up_leaves_what_answers(resident: tuple[Node, ResidentModels]) -> None:
    """Somebody waits for a model to make way, and goes: that one is found again, and still answers."""
    node, models = resident
    with node.models["one"].use.begun():
        loading = asyncio.ensure_future(models.load(_named(models, "two")))
        while "one" in node.models:
            await asyncio.sleep(0.01)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert list(node.models) == ["one"]
    await models.load(_named(models, "two"))
    assert list(node.models) == ["two"]


@run_async
async def test_what_nobody_asks_goes(resident: tuple[Node, ResidentModels]) -> None:
    """After its time, which may be changed; not while it answers; what was named stays."""
    node, models = resident
    going = asyncio.ensure_future(models.let_go())
    await models.load(_named(models, "two"))
    with node.models["two"].use.begun():
        models.keep("two", 0.0)
        await asyncio.sleep(0.1)
        assert list(node.models) == ["two"]
    while node.models:
        await asyncio.sleep(0.01)
    assert _names(models) == ["one", "two"]
    await models.load(_named(models, "one"))
    await asyncio.sleep(0.1)
    assert list(node.models) == ["one"]
    going.cancel()


@run_async
async def test_the_store_is_looked_at_again(
    talking_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that comes is there at once, and stays for the time that was given."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    monkeypatch.setattr("baremetalrt.weights.store.default_model", lambda: None)
    node = Node(ModelOptions(num_threads=1, context=256, repack=False), serves=True)
    models = ResidentModels(node, lists_store=True, keep_alive_s=0.2)
    going = asyncio.ensure_future(models.let_go())
    try:
        assert models.waiting() == []
        for folder in ("a", "b"):
            (tmp_path / "models" / folder).mkdir(parents=True)
            (tmp_path / "models" / folder / "twin.gguf").symlink_to(talking_model)
        (tmp_path / "models" / "new.gguf").symlink_to(talking_model)
        # Of two with one name, neither is meant.
        assert _names(models) == ["new"]
        await models.load(_named(models, "new"))
        assert list(node.models) == ["new"] and _names(models) == []
        while node.models:
            await asyncio.sleep(0.01)
        assert _names(models) == ["new"]
    finally:
        going.cancel()
        node.close()
