"""Where a model is opened that might run here or on peers."""

import asyncio
from pathlib import Path

import pytest

from baremetalrt.hosting import open_model
from baremetalrt.hosting.events import Comparing, Event
from baremetalrt.hosting.open_model import OpenRequest
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.store import default_model
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
