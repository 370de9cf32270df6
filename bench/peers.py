"""What a hop costs, and what the death of a peer costs: spans in processes of their own, on loopback.

One process alone, two stages and four stages take turns; medians of pairs. Every process computes on
one thread, so that they do not spin against each other.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.hosting.remote_model import open_over
from baremetalrt.membership.authority import the_membership
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.peers.chain import RemoteChain
from baremetalrt.peers.wire import ENCODINGS, Activations
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.store import default_model

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from peers_kit import PeerProcess, at_home, founder, member

PROMPT = [3 + i * 7 % 900 for i in range(128)]
LONG_PROMPT = [3 + i * 7 % 900 for i in range(1000)]
DECODED = 64
# A row of the model, and as much as half of a step of it reads.
ROW_BYTES, WORK_BYTES = 2304, 48_000_000
EIGHT = 8


def options(num_tokens: int) -> GenerationOptions:
    return GenerationOptions(
        sampling=SampleOptions(temperature=0), max_tokens=num_tokens, ignore_end=True
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


def work(memory: NDArray[np.float32]) -> None:
    """Reads as a step does, so that what comes next finds caches cold and the other side asleep."""
    memory.sum()


def echo(port: int) -> None:
    """A process that works and sends back what it got, on a blocking socket, in the clear."""
    memory = np.ones(WORK_BYTES // 4, dtype=np.float32)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(ROW_BYTES, socket.MSG_WAITALL):
            work(memory)
            connection.sendall(data)


def floor() -> None:
    """What any hop costs on this machine: two processes that take turns, and nothing else between."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        other = multiprocessing.get_context("spawn").Process(target=echo, args=(port,))
        other.start()
        ours, _ = server.accept()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    memory = np.ones(WORK_BYTES // 4, dtype=np.float32)
    turns, works = [], []
    with ours:
        for _ in range(200):
            started = time.perf_counter()
            work(memory)
            worked = time.perf_counter()
            ours.sendall(bytes(ROW_BYTES))
            ours.recv(ROW_BYTES, socket.MSG_WAITALL)
            turns.append(time.perf_counter() - worked)
            works.append(worked - started)
    other.join()
    ms = 1000 * (statistics.median(turns) - statistics.median(works)) / 2
    print(f"a blocking socket in the clear, with work between: {ms:.2f} ms for a message")


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
    node = Node(ModelOptions(num_threads=1, context=1024))
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
                caller = Node(ModelOptions(context=1024))
                async with (
                    Neighbours(membership, addresses) as neighbours,
                    open_over(caller, Opening(stored), neighbours) as model,
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


async def tokens_per_s(model: Model, num_callers: int) -> float:
    """Of callers at once, with prompts of their own; prompts included."""
    prompts = [[(token + n) % 900 + 3 for token in PROMPT] for n in range(num_callers)]
    started = time.perf_counter()
    await asyncio.gather(*(gaps(model, prompt, DECODED) for prompt in prompts))
    return num_callers * DECODED / (time.perf_counter() - started)


async def callers(machines: Machines, runs: int) -> None:
    stored = default_model()
    assert stored is not None
    peers = machines.start("0:10", "10:20", "20:30")
    node = Node(ModelOptions(num_threads=1, context=1024, max_sessions=EIGHT))
    caller = Node(ModelOptions(context=1024, max_sessions=EIGHT))
    alone = node.load(Opening(stored))
    found = []
    async with (
        Neighbours(the_membership(None), [peer.address for peer in peers]) as neighbours,
        open_over(caller, Opening(stored), neighbours) as model,
    ):
        for _ in range(runs):
            found.append(
                (
                    await tokens_per_s(model, 1),
                    await tokens_per_s(model, EIGHT),
                    await tokens_per_s(alone, EIGHT),
                )
            )
    caller.close()
    node.close()
    one, eight, here = (statistics.median(each) for each in zip(*found, strict=True))
    print(
        f"eight callers over three stages: {eight:.0f} tokens/s, "
        f"{statistics.median(e / o for o, e, _ in found):.2f} times one caller's {one:.0f}, and "
        f"{statistics.median(e / h for _, e, h in found):.2f} times eight callers' {here:.0f} in one "
        "process of one thread"
    )


async def precision(machines: Machines) -> None:
    """What fewer bits between stages do to the logits of a text of this project."""
    stored = default_model()
    assert stored is not None
    peers = machines.start("0:10", "10:20", "20:30")
    text = (Path(__file__).parent.parent / "README.md").read_text()[:2000]
    logits: dict[Activations, NDArray[np.float32]] = {}
    for kind in ENCODINGS:
        caller = Node(ModelOptions(context=1024))
        async with (
            Neighbours(the_membership(None), [peer.address for peer in peers]) as neighbours,
            open_over(caller, Opening(stored), neighbours, activations=kind) as model,
        ):
            (stage,) = model.route.stages
            place = await stage.open((), 1024)
            tokens = model.encode(text)[:256]
            logits[kind] = await stage.forward(place, tokens, None, "all")
            stage.release(place, keep=False)
        caller.close()
    exact = _log_softmax(logits["f32"])
    for kind in ("f16", "q8"):
        about = _log_softmax(logits[kind])
        divergence = (np.exp(exact) * (exact - about)).sum(axis=1).mean()
        agree = (exact.argmax(axis=1) == about.argmax(axis=1)).mean()
        print(
            f"{kind} between three stages: logits differ by "
            f"{np.abs(logits[kind] - logits['f32']).max():.3f} at most, KL divergence "
            f"{divergence:.1e}, the same first choice at {100 * agree:.1f} % of {len(exact)} tokens"
        )


def _log_softmax(logits_TV: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits_TV.astype(np.float64) - logits_TV.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


async def recovery(machines: Machines, runs: int) -> None:
    stored = default_model()
    assert stored is not None
    membership = the_membership(None)
    found = []
    for _ in range(runs):
        *peers, spare = machines.start("0:10", "10:20", "20:30", "10:20")
        caller = Node(ModelOptions(context=1024))
        addresses = [peer.address for peer in (*peers, spare)]
        async with (
            Neighbours(membership, addresses) as neighbours,
            open_over(caller, Opening(stored), neighbours) as model,
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
    parser.add_argument("--only", choices=("hops", "recovery", "callers", "precision"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        machines = Machines(Path(folder), stack)
        with at_home(machines.caller):
            if arguments.only in (None, "hops"):
                floor()
                asyncio.run(hops(machines, arguments.runs))
            if arguments.only in (None, "recovery"):
                asyncio.run(recovery(machines, arguments.runs))
            if arguments.only in (None, "callers"):
                asyncio.run(callers(machines, arguments.runs))
            if arguments.only in (None, "precision"):
                asyncio.run(precision(machines))


if __name__ == "__main__":
    main()
