"""Where a model is opened that might run here or on peers."""

import asyncio
from pathlib import Path

import pytest

import tiny_whole
from baremetalrt.hosting import open_model
from baremetalrt.hosting.events import Comparing, Event
from baremetalrt.hosting.open_model import OpenRequest
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.store import StoredModel, default_model
from peers_kit import at_home, founder
from tiny_adapters import random_adapter, write_adapter


def test_a_model_with_adapters_stays_here_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large it is: nobody asks whether peers, which compute no adapters, are faster."""
    monkeypatch.setattr(open_model, "_WORTH_ASKING_BYTES", 0)
    model = default_model()
    assert model is not None
    adapter = random_adapter(model.path, targets=lambda name: name.startswith("blk.0.attn_q"))
    path = write_adapter(adapter, tmp_path / "one.gguf")

    def told(*adapters: str) -> list[Event]:
        events: list[Event] = []

        async def play() -> None:
            request = OpenRequest(
                model=Opening(model), options=ModelOptions(context=256), adapters=adapters
            )
            async with open_model.open_model(request, events.append) as opened:
                assert opened.model.route.takes_adapters

        asyncio.run(play())
        return events

    with at_home(founder(tmp_path / "home")):
        assert not any(isinstance(event, Comparing) for event in told(str(path)))
        # Without adapters it is asked, and here nobody answers.
        assert any(isinstance(event, Comparing) for event in told())


def test_a_model_that_runs_whole_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers cannot compute it, so nobody asks them, though it be too large to be comfortable."""
    monkeypatch.setattr(open_model, "_WORTH_ASKING_BYTES", 0)
    monkeypatch.setattr(open_model, "_fits_here", lambda num_bytes: False)
    path = tiny_whole.write(tmp_path / "model.gguf", "gpt2")
    opening = Opening(StoredModel("model", path, is_default=False))
    events: list[Event] = []

    async def play() -> str:
        async with open_model.open_model(OpenRequest(model=opening), events.append) as opened:
            return opened.model.name

    with at_home(founder(tmp_path / "home")):
        assert asyncio.run(play()) == "model"
    assert not any(isinstance(event, Comparing) for event in events)
