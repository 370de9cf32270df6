"""A route over machines whose libraries were built differently."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from baremetalrt.core.places import home
from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.hosting.remote_model import open_over
from baremetalrt.membership.authority import the_membership
from baremetalrt.native.library import load_library
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.store import default_model
from peers_kit import PeerProcess, at_home, founder, member

OTHER = "llama-cpp-python==0.3.36"
TEXT = Path(__file__).parent.parent.parent / "README.md"
# In nats: what half precision between stages costs, about.
TOLERANCE = 0.01


def other_library() -> Path:
    """The folder of a library that is compiled here, for this very processor: minutes, once."""
    folder = home() / "benchmarks" / OTHER
    if not (folder / "llama_cpp" / "lib").is_dir():
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
        subprocess.run([*pip, "--target", str(folder), OTHER], check=True)
    return folder / "llama_cpp" / "lib"


@pytest.mark.network
@pytest.mark.timeout(1800)
def test_stages_of_two_builds_differ_no_more_than_the_builds_do(tmp_path: Path) -> None:
    """Vectors of another width sum in another order, and quantized activations round elsewhere."""
    other, stored = other_library(), default_model()
    caller = founder(tmp_path / "caller")

    def peer(name: str, blocks: str, library: Path | None = None) -> PeerProcess:
        home = member(tmp_path / name, caller)
        return PeerProcess(stored.path, blocks, home, library=library)

    first, second = peer("first", "0:15"), peer("second", "15:30", other)
    whole = peer("whole", "0:30", other)
    peers = [one.wait_until_it_listens() for one in (first, second, whole)]

    async def logits_over(*used: PeerProcess) -> tuple[set[str], np.ndarray]:
        node = Node(ModelOptions(context=1024))
        async with (
            Neighbours(the_membership(None), [one.address for one in used]) as neighbours,
            open_over(node, Opening(stored), neighbours, takes_over=False) as model,
        ):
            builds = {one.about.library for one in await neighbours.ask()}
            found = await logits_of(model)
        node.close()
        return builds, found

    async def logits_alone() -> np.ndarray:
        node = Node(ModelOptions(num_threads=1, context=1024))
        found = await logits_of(await asyncio.to_thread(node.load, Opening(stored)))
        node.close()
        return found

    try:
        with at_home(caller):
            expected = asyncio.run(logits_alone())
            builds, mixed = asyncio.run(logits_over(*peers[:2]))
            _, built = asyncio.run(logits_over(peers[2]))
    finally:
        for one in peers:
            one.__exit__()
    assert len(builds) == 2 and any(load_library().origin in build for build in builds)
    assert 0 < divergence(expected, mixed) < 1.5 * divergence(expected, built) < TOLERANCE


async def logits_of(model: Model) -> np.ndarray:
    """Of every token of a text of this project."""
    tokens = model.encode(TEXT.read_text()[:1500])[:200]
    place = await model.route.open((), len(tokens))
    try:
        return await model.route.forward(place, tokens, "all")
    finally:
        model.route.release(place, keep=False)


def divergence(logits_TV: np.ndarray, others_TV: np.ndarray) -> float:
    """Kullback-Leibler divergence of what is expected next, in nats, mean over the text."""
    logs, others = (
        each - np.logaddexp.reduce(each, axis=1, keepdims=True)
        for each in (logits_TV.astype(np.float64), others_TV.astype(np.float64))
    )
    return float((np.exp(logs) * (logs - others)).sum(axis=1).mean())
