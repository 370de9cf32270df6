"""A model three times as large as the memory of any machine: four machines, against one.

Four `bmrt serve --share`, each in a control group with a third of the model's memory and a disk of a
declared rate, host a quarter of it each. One machine with the same limits has all of it: llama.cpp pages
the mapped file, `bmrt` streams it, and `accelerate` offloads the same weights, in half precision, to the
disk. All machines are this one, and take turns on its processor. Prints seconds for a token, ratios, and
beside them what was to be expected: the bytes that a token must read over the disk's rate, against
computing and hops. First comes the control, where nobody has a limit. Needs Linux, control groups of
version 1 and the rights to make them.
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import large_model
from baremetalrt.core.units import MIB
from baremetalrt.devices.processor import default_threads
from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.hosting.remote_model import open_over
from baremetalrt.membership.authority import the_membership
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.store import StoredModel
from caps import Cap, available
from processes import Worker
from streaming import PROMPT, arguments_for, drop_caches

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from peers_kit import PeerProcess, Relay, at_home, founder, member

SHARE = 1 / 3
NUM_BLOCKS, NUM_PEERS = 72, 4
RATES_MB = (200, 1000)
DELAYS_MS = (0.0, 5.0)
# From the caller through all peers, and back.
HOPS = NUM_PEERS + 1


@dataclass(frozen=True)
class Seen:
    """One side: seconds for a token, the most memory of a machine, and what was read for a token."""

    token_s: float
    peak_bytes: int
    read_bytes: float


class Peers:
    """Four machines with a quarter each; `rate_mb` 0 for no limits."""

    def __init__(self, model: Path, rate_mb: int) -> None:
        self._model, self._rate_mb = model, rate_mb
        self._stack = ExitStack()
        self.caps: list[Cap] = []
        self._peers: list[PeerProcess] = []

    def __enter__(self) -> "Peers":
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.caller = founder(folder / "caller")
        size = self._model.stat().st_size
        cuts = [NUM_BLOCKS * i // NUM_PEERS for i in range(NUM_PEERS + 1)]
        for number, (start, end) in enumerate(itertools.pairwise(cuts)):
            join = None
            if self._rate_mb:
                cap = Cap(int(size * SHARE), self._rate_mb * 1_000_000, self._model)
                self.caps.append(self._stack.enter_context(cap))
                join = cap.join
            home = member(folder / f"peer-{number}", self.caller)
            peer = PeerProcess(
                self._model, f"{start}:{end}", home, threads=default_threads(), join=join
            )
            self._peers.append(self._stack.enter_context(peer))
        for peer in self._peers:
            peer.wait_until_it_listens()
        return self

    def measure(self, delay_ms: float, num_tokens: int) -> Seen:
        relays = [Relay(peer.address, delay_ms / 1000) for peer in self._peers]
        try:
            with at_home(self.caller):
                before = sum(cap.read_bytes for cap in self.caps)
                token_s = asyncio.run(self._answer([r.address for r in relays], num_tokens))
        finally:
            for relay in relays:
                relay.close()
        read = sum(cap.read_bytes for cap in self.caps) - before
        peak = max((cap.peak_bytes for cap in self.caps), default=0)
        return Seen(token_s, peak, read / num_tokens)

    async def _answer(self, addresses: list[str], num_tokens: int) -> float:
        node = Node(ModelOptions(context=1024))
        greedy = GenerationOptions(
            sampling=SampleOptions(temperature=0.0), max_tokens=num_tokens + 3, ignore_end=True
        )
        opening = Opening(StoredModel(self._model.stem, self._model, is_default=False))
        times = []
        try:
            async with (
                Neighbours(the_membership(None), addresses) as neighbours,
                open_over(node, opening, neighbours, takes_over=False) as model,
            ):
                async for _ in model.session(PROMPT, greedy).generate():
                    times.append(time.perf_counter())
        finally:
            await asyncio.to_thread(node.close)
        # The first ones still bring blocks into memory.
        return statistics.median(b - a for a, b in itertools.pairwise(times[2:]))

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def alone(side: str, model: Path, rate_mb: int, num_tokens: int) -> Seen | None:
    """One machine with all of it; `rate_mb` 0 for no limits. None if the limit was its end."""
    try:
        return _alone(side, model, rate_mb, num_tokens)
    except RuntimeError as error:
        # How a worker tells that the system has ended it.
        if rate_mb and "-9" in str(error):
            return None
        raise


def _alone(side: str, model: Path, rate_mb: int, num_tokens: int) -> Seen:
    arguments: dict[str, Any] = arguments_for(model)
    script = {"bmrt": "engine_worker.py", "llama.cpp": "llama_cpp_worker.py"}.get(side)
    if side == "llama.cpp":
        arguments |= {"least_memory": True}
    if script is None:
        script, arguments = "offload_worker.py", {"model": str(model), "threads": default_threads()}
    drop_caches()
    with ExitStack() as stack:
        join: Callable[[], None] | None = None
        if rate_mb:
            size = model.stat().st_size
            cap = stack.enter_context(Cap(int(size * SHARE), rate_mb * 1_000_000, model))
            join = cap.join
        with Worker(script, arguments, join) as worker:
            worker.ask({"prompts": [PROMPT], "num_tokens": 1})
            before = cap.read_bytes if rate_mb else 0
            answer = worker.ask({"prompts": [PROMPT], "num_tokens": num_tokens + 1})
            read = (cap.read_bytes if rate_mb else 0) - before
        peak = cap.peak_bytes if rate_mb else 0
        # A prompt goes through all weights once, too.
        return Seen(answer["decode_s"] / num_tokens, peak, read / (num_tokens + 1))


def show(name: str, seen: Seen | None, base: Seen, expected: float | None) -> None:
    if seen is None:
        print(f"    {name:28} ended by its limit of memory", flush=True)
        return
    said = f", {expected:.1f} expected" if expected is not None else ""
    print(
        f"    {name:28} {seen.token_s:8.3f} s a token: {seen.token_s / base.token_s:6.1f} times as "
        f"long{said}; {seen.read_bytes / 1e6:.0f} MB read, peak {seen.peak_bytes / MIB:.0f} MiB",
        flush=True,
    )


def compare(
    model: Path, rate_mb: int, in_memory_s: float, num_tokens: int, sides: list[str]
) -> None:
    size = model.stat().st_size
    print(f"  {rate_mb} MB/s, {SHARE * size / MIB:.0f} MiB for each machine")
    drop_caches()
    with Peers(model, rate_mb) as peers:
        over = {delay: peers.measure(delay, num_tokens) for delay in DELAYS_MS}
    single = {side: alone(side, model, rate_mb, 2) for side in sides}
    for delay, seen in over.items():
        expected_s = in_memory_s + HOPS * delay / 1000
        print(
            f"   four machines, {delay:.0f} ms away from each other: {seen.token_s:.3f} s a token, "
            f"{expected_s:.3f} expected; {seen.read_bytes / 1e6:.0f} MB read, "
            f"peak {seen.peak_bytes / MIB:.0f} MiB"
        )
        for side, one in single.items():
            # llama.cpp reads all of it in every round, as what it needs next is what it dropped.
            must_read_s = size / (rate_mb * 1e6)
            expected = max(must_read_s, in_memory_s) / expected_s if side == "llama.cpp" else None
            show(side, one, seen, expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--without", nargs="*", default=[], help="sides that are left out")
    given = parser.parse_args()
    if not available():
        print(
            "headline: needs control groups of version 1, and rights to make them", file=sys.stderr
        )
        return
    model = large_model.dense(num_blocks=NUM_BLOCKS)
    sides = [s for s in ("llama.cpp", "bmrt", "accelerate") if s not in given.without]
    if "accelerate" in sides:
        # Here and not above: it brings PyTorch.
        from offload_worker import offloaded

        offloaded(model)
    print(f"{model.stat().st_size / 1e6:.0f} MB on {NUM_PEERS} machines")
    print("  no limits: the control")
    with Peers(model, 0) as peers:
        over = peers.measure(0.0, given.tokens)
    single = {side: alone(side, model, 0, 4) for side in sides if side != "accelerate"}
    print(f"   four machines: {over.token_s:.3f} s a token")
    for side, one in single.items():
        show(side, one, over, None)
    alone_s = single.get("bmrt")
    in_memory_s = alone_s.token_s if alone_s else over.token_s
    for rate_mb in RATES_MB:
        compare(model, rate_mb, in_memory_s, given.tokens, sides)


if __name__ == "__main__":
    main()
