"""Callers and random deaths for minutes: nothing is lost, and nothing grows."""

import asyncio
import random
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
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
from baremetalrt.weights.store import default_model, find_model
from peers_kit import PeerProcess, at_home, founder, member
from ties import require_same

SOAK_S = 600.0
# Until here caches fill, and pools of threads.
WARM_UP_S = 60.0
# Between two disturbances, and how long a peer is silent that is not killed.
PAUSE_S = 5.0
SILENCE_S = 4.0
SPANS = ("0:10", "10:20", "20:30")
CALLERS = 3
GREEDY = GenerationOptions(sampling=SampleOptions(temperature=0), max_tokens=24, ignore_end=True)
PROMPTS = [[3 + (i * 7 + n) % 900 for i in range(40 + 60 * n)] for n in range(CALLERS)]


@dataclass(frozen=True)
class Size:
    """What of a process must not grow."""

    threads: int
    files: int
    bytes: int

    @classmethod
    def of(cls, pid: int | None = None) -> "Size":
        process = psutil.Process(pid)
        return cls(process.num_threads(), process.num_fds(), process.memory_info().rss)


class Machines:
    """For every span one peer that stays, and one that is killed again and again."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.stack = stack
        self.caller = founder(folder / "caller")
        self.model = default_model().path
        self.homes = [member(folder / f"peer-{i}", self.caller) for i in range(2 * len(SPANS))]
        self.peers = [self._start(i) for i in range(len(self.homes))]
        self.addresses = [peer.address for peer in self.peers]

    def _start(self, i: int, port: int = 0) -> PeerProcess:
        peer = PeerProcess(self.model, SPANS[i % len(SPANS)], self.homes[i], port=port)
        return self.stack.enter_context(peer).wait_until_it_listens()

    @property
    def lasting(self) -> list[PeerProcess]:
        return self.peers[: len(SPANS)]

    def disturb(self, chance: random.Random) -> None:
        """Kills a peer and starts it again, or silences one that stays for a while."""
        i = chance.randrange(len(SPANS))
        if chance.random() < 0.5:
            self.lasting[i].signal(signal.SIGSTOP)
            time.sleep(SILENCE_S)
            self.lasting[i].signal(signal.SIGCONT)
            return
        i += len(SPANS)
        # Its pipes are closed, too: they would be ours to count.
        self.peers[i].__exit__()
        self.peers[i] = self._start(i, int(self.addresses[i].rpartition(":")[2]))


async def answer(model: Model, prompt: list[int]) -> list[int]:
    return [token.id async for token in model.session(prompt, GREEDY).generate()]


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 300)
def test_callers_and_deaths_for_minutes(tmp_path: Path) -> None:
    """Answers are those of one machine, up to ties; memory, threads and files stay as they were."""
    chance = random.Random(5)

    async def soak(machines: Machines) -> tuple[int, list[list[Size]]]:
        node = Node(ModelOptions(context=1024, num_threads=1))
        opening = Opening(find_model(str(machines.model)))
        alone = node.load(opening)
        expected = [await answer(alone, prompt) for prompt in PROMPTS]
        num_answers, sizes, started = 0, [], time.monotonic()
        disturbing = asyncio.ensure_future(asyncio.sleep(0))
        while (passed := time.monotonic() - started) < SOAK_S:
            if not sizes and passed > WARM_UP_S:
                sizes.append(measure(machines))
            if disturbing.done():
                disturbing.result()
                await asyncio.sleep(PAUSE_S * chance.random())
                disturbing = asyncio.ensure_future(asyncio.to_thread(machines.disturb, chance))
            caller = Node(ModelOptions(context=1024, num_threads=1))
            async with (
                Neighbours(the_membership(None), machines.addresses) as neighbours,
                open_over(caller, Opening(opening.stored), neighbours, takes_over=False) as model,
            ):
                answers = await asyncio.gather(*(answer(model, prompt) for prompt in PROMPTS))
            caller.close()
            for prompt, tokens, others in zip(PROMPTS, expected, answers, strict=True):
                await require_same(alone, prompt, tokens, others)
            num_answers += len(answers)
        await disturbing
        sizes.append(measure(machines))
        node.close()
        return num_answers, sizes

    with ExitStack() as stack:
        machines = Machines(tmp_path, stack)
        with at_home(machines.caller):
            num_answers, (before, after) = asyncio.run(soak(machines))
    assert num_answers > SOAK_S / 20
    for early, late in zip(before, after, strict=True):
        assert late.threads <= early.threads + 4, (early, late)
        assert late.files <= early.files + 16, (early, late)
        assert late.bytes <= early.bytes + 64e6, (early, late)


def measure(machines: Machines) -> list[Size]:
    """This process, and the peers that stay."""
    return [Size.of(), *(Size.of(peer.process.pid) for peer in machines.lasting)]
