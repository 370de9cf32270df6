"""What a hop costs, and what the death of a peer costs: spans in processes of their own, on loopback.

One process alone, two stages and four stages take turns; medians of pairs. Every process computes on
one thread, so that they do not spin against each other.
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from baremetalrt.peers.chain import RemoteChain
from baremetalrt.serve.neighbours import Neighbours, the_membership
from baremetalrt.serve.node import Model, Node, NodeConfig
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.remote import model_over_peers
from baremetalrt.session.sampling import SamplingOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.store import default_model

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from peers_kit import PeerProcess, at_home, founder, member

PROMPT = [3 + i * 7 % 900 for i in range(128)]
LONG_PROMPT = [3 + i * 7 % 900 for i in range(1000)]
DECODED = 64


def options(num_tokens: int) -> GenerationOptions:
    return GenerationOptions(
        sampling=SamplingOptions(temperature=0), max_tokens=num_tokens, ignore_end=True
    )


async def gaps(
    model: Model, prompt: list[int], num_tokens: int, kill: object = None
) -> list[float]:
    """Seconds before each token after the first; `kill` is called in the middle."""
    times = []
    async for _ in model.session(prompt, options(num_tokens)).generate():
        times.append(time.perf_counter())
        if callable(kill) and len(times) == num_tokens // 2:
            kill()
    return [b - a for a, b in itertools.pairwise(times)]


class Machines:
    """The caller's home, and peers that are ended with the benchmark."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.caller = founder(folder / "caller")
        self.count = 0

    def start(self, *spans: str) -> list[PeerProcess]:
        model = default_model()
        assert model is not None
        peers = []
        for blocks in spans:
            self.count += 1
            home = member(self.folder / f"peer-{self.count}", self.caller)
            peers.append(self.stack.enter_context(PeerProcess(model.path, blocks, home)))
        return [peer.wait_until_it_listens() for peer in peers]


async def hops(machines: Machines, runs: int) -> None:
    stored = default_model()
    assert stored is not None
    membership = the_membership(None)
    node = Node(NodeConfig(num_threads=1, context=1024))
    routes = {
        2: machines.start("0:15", "15:30"),
        4: machines.start("0:8", "8:15", "15:23", "23:30"),
    }
    alone = node.load(Opening(stored))
    costs: dict[int, list[float]] = {2: [], 4: []}
    try:
        for _ in range(runs):
            base = statistics.median(await gaps(alone, PROMPT, DECODED))
            for num_stages, peers in routes.items():
                addresses = [peer.address for peer in peers]
                caller = Node(NodeConfig(context=1024))
                async with (
                    Neighbours(membership, addresses) as neighbours,
                    model_over_peers(caller, Opening(stored), neighbours) as model,
                ):
                    over = statistics.median(await gaps(model, PROMPT, DECODED))
                caller.close()
                # From the caller to the first, on from stage to stage, and back.
                costs[num_stages].append((over - base) / (num_stages + 1))
    finally:
        node.close()
    for num_stages, each in costs.items():
        ms = sorted(1000 * c for c in each)
        print(
            f"{num_stages} stages: a hop costs {statistics.median(ms):.2f} ms "
            f"[{ms[0]:.2f} to {ms[-1]:.2f}], of a token's {1000 * base:.1f} ms alone"
        )


async def recovery(machines: Machines, runs: int) -> None:
    stored = default_model()
    assert stored is not None
    membership = the_membership(None)
    found = []
    for _ in range(runs):
        *peers, spare = machines.start("0:10", "10:20", "20:30", "10:20")
        caller = Node(NodeConfig(context=1024))
        addresses = [peer.address for peer in (*peers, spare)]
        async with (
            Neighbours(membership, addresses) as neighbours,
            model_over_peers(caller, Opening(stored), neighbours) as model,
        ):
            session = model.session(LONG_PROMPT, options(1))
            async for _ in session.generate():
                pass
            # Three spans of equal size compute a prompt, one after the other.
            prefill_s = session.stats.prefill_s / 3
            others = LONG_PROMPT[::-1]
            # Whichever of the two the route has chosen.
            chain = model.route.stages[0]
            assert isinstance(chain, RemoteChain)
            victim = next(peer for peer in (*peers, spare) if peer.id == chain.spans[1].id)
            gap = max(await gaps(model, others, 16, victim.process.kill))
        caller.close()
        found.append((gap, prefill_s))
        for peer in (*peers, spare):
            peer.process.kill()
    ratio = statistics.median((gap - 1) / prefill_s for gap, prefill_s in found)
    print(
        f"recovery at 1,000 tokens: a gap of {statistics.median(g for g, _ in found):.2f} s; "
        f"without one second, {ratio:.2f} times the prefill of the lost span "
        f"({statistics.median(p for _, p in found):.2f} s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=("hops", "recovery"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        machines = Machines(Path(folder), stack)
        with at_home(machines.caller):
            if arguments.only != "recovery":
                asyncio.run(hops(machines, arguments.runs))
            if arguments.only != "hops":
                asyncio.run(recovery(machines, arguments.runs))


if __name__ == "__main__":
    main()
