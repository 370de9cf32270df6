"""Callers, deaths, moves, sleeps and expulsions for minutes: nothing is lost or stuck, and nothing grows.

`make soak` does it for two hours.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from baremetalrt.hosting.members import put_out
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
from peers_kit import SWARM, PeerProcess, at_home, founder, member
from ties import require_same

SOAK_S = float(os.environ.get("SOAK_S", "600"))
# Until here caches fill, pools of threads, and the allocator's stock of pieces: that of a process which
# opens models again and again grows for some 150 of them, by 60 MB.
WARM_UP_S = max(60.0, SOAK_S / 4)
# Between two disturbances, and how long a peer is silent that is not killed.
PAUSE_S = 5.0
SILENCE_S = 4.0
# A caller whose lid is closed for longer than it waits for signs of life.
SLEEP_S = 6.0
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
    """For every span one peer that stays, and one that is killed again and again.

    That one may come back with other blocks. Now and then a member joins, hosts, and is put out.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.stack = stack
        self.caller = founder(folder / "caller")
        self.model = default_model().path
        self.homes = [member(folder / f"peer-{i}", self.caller) for i in range(2 * len(SPANS))]
        self.spans = [*SPANS, *SPANS]
        self.peers = [self._start(i) for i in range(len(self.homes))]
        self.addresses = [peer.address for peer in self.peers]
        self.done: Counter[str] = Counter()

    def _start(self, i: int, port: int = 0) -> PeerProcess:
        peer = PeerProcess(self.model, self.spans[i], self.homes[i], port=port)
        return self.stack.enter_context(peer).wait_until_it_listens()

    @property
    def lasting(self) -> list[PeerProcess]:
        return self.peers[: len(SPANS)]

    def disturb(self, chance: random.Random) -> None:
        """One of the things that happen to machines at home, until it is over."""
        i = chance.randrange(len(SPANS))
        what = chance.choice((self.silence, self.restart, self.restart, self.hang_up, self.expel))
        what(i, chance)
        self.done[what.__name__] += 1

    def silence(self, i: int, _: random.Random) -> None:
        """A cable is out for a while; the other peer of that span has its blocks then."""
        if self.spans[i + len(SPANS)] != SPANS[i]:
            self.restart(i, None)
        self.lasting[i].signal(signal.SIGSTOP)
        time.sleep(SILENCE_S)
        self.lasting[i].signal(signal.SIGCONT)

    def restart(self, i: int, chance: random.Random | None) -> None:
        """A peer dies and comes back, with other blocks at times."""
        self.spans[i + len(SPANS)] = SPANS[i] if chance is None else chance.choice((*SPANS, "5:25"))
        i += len(SPANS)
        # Its pipes are closed, too: they would be ours to count.
        self.peers[i].__exit__()
        self.peers[i] = self._start(i, int(self.addresses[i].rpartition(":")[2]))

    def hang_up(self, i: int, _: random.Random) -> None:
        """An operator has one that stays read its settings again."""
        self.lasting[i].signal(signal.SIGHUP)

    def expel(self, i: int, _: random.Random) -> None:
        """A member joins, hosts what it is asked for, and is put out while it does."""
        home = member(self.caller.parent / f"guest-{self.done['expel']}", self.caller)
        with PeerProcess(self.model, SPANS[i], home) as guest:
            guest.wait_until_it_listens()
            self.addresses.append(guest.address)
            time.sleep(SILENCE_S)
            told = [peer.address for peer in self.lasting]
            assert len(asyncio.run(put_out(SWARM, guest.id, told)).told) == len(told)
            self.addresses.remove(guest.address)
            time.sleep(1)


async def answer(model: Model, prompt: list[int]) -> list[int]:
    return [token.id async for token in model.session(prompt, GREEDY).generate()]


async def sleeps(chance: random.Random) -> None:
    """This machine, the caller, sleeps in the middle of an answer, one time out of eight."""
    await asyncio.sleep(chance.random())
    if chance.random() < 0.125:
        time.sleep(SLEEP_S)


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
            asleep = asyncio.ensure_future(sleeps(chance))
            async with (
                Neighbours(the_membership(None), machines.addresses) as neighbours,
                open_over(caller, Opening(opening.stored), neighbours, takes_over=False) as model,
            ):
                answers = await asyncio.gather(*(answer(model, prompt) for prompt in PROMPTS))
            await asleep
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
        print(f"{num_answers} answers, {dict(machines.done)}, {before} {after}")
    assert num_answers > SOAK_S / 20
    for early, late in zip(before, after, strict=True):
        assert late.threads <= early.threads + 4, (early, late)
        assert late.files <= early.files + 16, (early, late)
        assert late.bytes <= early.bytes + 64e6, (early, late)


def measure(machines: Machines) -> list[Size]:
    """This process, and the peers that stay."""
    return [Size.of(), *(Size.of(peer.process.pid) for peer in machines.lasting)]
