"""128 greedy tokens over two, three and five stages, alone and beside other callers."""

import asyncio
from pathlib import Path

import pytest

from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.hosting.remote_model import open_over
from baremetalrt.membership.authority import the_membership
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.store import default_model
from peers_kit import PeerProcess, at_home, founder, member
from ties import require_same

ROUTES = {
    2: ("0:15", "15:30"),
    3: ("0:10", "10:20", "20:30"),
    5: ("0:6", "6:12", "12:18", "18:24", "24:30"),
}
GREEDY = GenerationOptions(sampling=SampleOptions(temperature=0), max_tokens=128, ignore_end=True)
PROMPTS = [
    [3 + i * step % 900 for i in range(length)] for step, length in ((7, 300), (11, 20), (13, 90))
]


async def tokens_of(model: Model, prompt: list[int]) -> list[int]:
    tokens = [t.id async for t in model.session(prompt, GREEDY).generate()]
    return [t for t in tokens if t is not None]


async def compare(addresses: list[str]) -> None:
    node, caller = Node(ModelOptions(num_threads=1, context=1024)), Node(ModelOptions(context=1024))
    stored = default_model()
    assert stored is not None
    try:
        alone = await asyncio.to_thread(node.load, Opening(stored))
        expected = [await tokens_of(alone, prompt) for prompt in PROMPTS]
        async with (
            Neighbours(the_membership(None), addresses) as neighbours,
            open_over(caller, Opening(stored), neighbours) as model,
        ):
            for prompt, tokens in zip(PROMPTS, expected, strict=True):
                assert await tokens_of(model, prompt) == tokens
            together = await asyncio.gather(*(tokens_of(model, prompt) for prompt in PROMPTS))
        for prompt, tokens, others in zip(PROMPTS, expected, together, strict=True):
            await require_same(alone, prompt, tokens, others)
    finally:
        node.close()
        caller.close()


@pytest.mark.slow
@pytest.mark.parametrize("num_stages", [2, 3, 5])
def test_as_many_stages_as_there_are_say_the_same(tmp_path: Path, num_stages: int) -> None:
    caller = founder(tmp_path / "caller")
    stored = default_model()
    assert stored is not None
    peers = [
        PeerProcess(stored.path, blocks, member(tmp_path / f"peer-{i}", caller))
        for i, blocks in enumerate(ROUTES[num_stages])
    ]
    try:
        addresses = [peer.wait_until_it_listens().address for peer in peers]
        with at_home(caller):
            asyncio.run(compare(addresses))
    finally:
        for peer in peers:
            peer.__exit__()
