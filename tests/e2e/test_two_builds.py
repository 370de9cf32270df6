"""A route over machines whose libraries were built differently."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from baremetalrt.native.library import load_library
from baremetalrt.serve.neighbours import Neighbours, the_membership
from baremetalrt.serve.node import Node, NodeConfig
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.remote import model_over_peers
from baremetalrt.weights.store import default_model, home
from peers_kit import PeerProcess, at_home, founder, member
from ties import TIE

OTHER = "llama-cpp-python==0.3.36"
TEXT = [3 + i * 7 % 900 for i in range(200)]


def other_library() -> Path:
    """The folder of a library that is compiled here, for this very processor: minutes, once."""
    folder = home() / "benchmarks" / OTHER
    if not (folder / "llama_cpp" / "lib").is_dir():
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
        subprocess.run([*pip, "--target", str(folder), OTHER], check=True)
    return folder / "llama_cpp" / "lib"


@pytest.mark.network
@pytest.mark.timeout(1800)
def test_stages_of_two_builds_agree_within_the_tolerance_of_their_sums(tmp_path: Path) -> None:
    """Vectors of another width sum in another order: logits differ by less than what counts as a tie."""
    other, stored = other_library(), default_model()
    caller = founder(tmp_path / "caller")
    peers = [
        PeerProcess(stored.path, "0:15", member(tmp_path / "bundled", caller)),
        PeerProcess(stored.path, "15:30", member(tmp_path / "built", caller), library=other),
    ]
    addresses = [peer.wait_until_it_listens().address for peer in peers]

    async def compare() -> tuple[set[str], np.ndarray, np.ndarray]:
        node, calling = (
            Node(NodeConfig(num_threads=1, context=1024)),
            Node(NodeConfig(context=1024)),
        )
        alone = await asyncio.to_thread(node.load, Opening(stored))
        async with (
            Neighbours(the_membership(None), addresses) as neighbours,
            model_over_peers(calling, Opening(stored), neighbours) as over,
        ):
            builds = {one.about.library for one in await neighbours.ask()}
            logits = []
            for model in (alone, over):
                place = await model.route.open((), len(TEXT))
                logits.append(await model.route.forward(place, TEXT, "all"))
                model.route.release(place, keep=False)
        node.close()
        calling.close()
        return builds, logits[0], logits[1]

    try:
        with at_home(caller):
            builds, expected, found = asyncio.run(compare())
    finally:
        for peer in peers:
            peer.__exit__()
    assert len(builds) == 2 and any(load_library().origin in build for build in builds)
    assert 0 < np.abs(found - expected).max() < TIE
