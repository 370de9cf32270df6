"""One model across several processes: the same tokens as alone, whoever of them is killed."""

import asyncio
import functools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.hosting.events import Event, StageLost, StageReplaced
from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.hosting.remote_model import open_over
from baremetalrt.membership.authority import the_membership
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.peers.chain import RemoteChain
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.store import default_model
from commands import bmrt
from peers_kit import FOREIGN, PeerProcess, Relay, at_home, founder, member
from swarm_kit import LOOPBACK, free_ports

SPANS = ("0:10", "10:20", "20:30")
PROMPT = [3 + i * 7 % 900 for i in range(600)]
NUM_TOKENS = 24
GREEDY = GenerationOptions(
    sampling=SampleOptions(temperature=0), max_tokens=NUM_TOKENS, ignore_end=True
)
# Far longer than finding a silent peer, far shorter than a hang.
GAP_S = 200.0


class Machines:
    """A caller, and two peers for every span, of which the second is a spare."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = default_model().path
        self.caller = founder(folder / "caller")
        self.by_id: dict[str, PeerProcess] = {}
        self.relays: dict[str, Relay] = {}
        self._stack = ExitStack()
        self._count = 0

    def start(self, *spans: str) -> list[PeerProcess]:
        """One peer for each of the spans; they start at the same time."""
        peers = []
        for blocks in spans:
            self._count += 1
            home = member(self.folder / f"peer-{self._count}", self.caller)
            peers.append(self._stack.enter_context(PeerProcess(self.model, blocks, home)))
        listening = [peer.wait_until_it_listens() for peer in peers]
        for peer in listening:
            self.by_id[peer.id] = peer
            # Whoever calls it, the caller or the stage before, does so through a wire.
            relay = Relay(peer.address)
            self._stack.callback(relay.close)
            peer.address = relay.address
            self.relays[relay.address] = relay
        return listening

    def kill(self, model: Model, stage: int, death: str) -> None:
        """Whichever peer the route has chosen for that stage."""
        chain = model.route.stages[0]
        assert isinstance(chain, RemoteChain)
        victim = chain.spans[stage]
        if death == "cut":
            self.relays[victim.address].cut()
        elif death == "reset":
            self.relays[victim.address].reset()
        else:
            self.by_id[victim.id].signal(signal.Signals[death])

    def close(self) -> None:
        self._stack.close()

    def opening(self) -> Opening:
        return Opening(default_model())

    async def over(
        self,
        addresses: list[str],
        prompt: list[int],
        at: int = -1,
        death: tuple[int, str] = (0, "SIGKILL"),
        *,
        takes_over: bool = False,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> tuple[list[int], list[Event]]:
        """Tokens, and what the user was told, which `on_event` hears, too.

        Before token number `at` is computed, the peer of a stage dies.
        """
        told: list[Event] = []

        def hear(event: Event) -> None:
            told.append(event)
            on_event(event)

        node = Node(ModelOptions(context=1024, num_threads=1))
        try:
            with at_home(self.caller):
                async with (
                    Neighbours(the_membership(None), addresses) as neighbours,
                    open_over(
                        node,
                        self.opening(),
                        neighbours,
                        takes_over=takes_over,
                        on_event=hear,
                    ) as model,
                ):
                    if at == 0:
                        self.kill(model, *death)
                    tokens: list[int] = []
                    async for token in model.session(prompt, GREEDY).generate():
                        assert token.id is not None
                        tokens.append(token.id)
                        if len(tokens) == at:
                            self.kill(model, *death)
            return tokens, told
        finally:
            node.close()


@functools.cache
def alone(*prompt: int) -> list[int]:
    """What one machine says."""

    async def answer() -> list[int]:
        node = Node(ModelOptions(num_threads=1, context=1024))
        try:
            model = await asyncio.to_thread(node.load, Opening(default_model()))
            tokens = [t.id async for t in model.session(list(prompt), GREEDY).generate()]
            return [t for t in tokens if t is not None]
        finally:
            node.close()

    return asyncio.run(answer())


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    yield made
    made.close()


def run(
    machines: Machines, peers: list[PeerProcess], *arguments: Any, **options: Any
) -> tuple[list[int], list[Event]]:
    with at_home(machines.caller):
        return asyncio.run(machines.over([p.address for p in peers], *arguments, **options))


def test_a_route_over_three_machines_says_what_one_machine_says(machines: Machines) -> None:
    """Also for callers at once, and for a text of which the peers remember the beginning."""
    peers = machines.start(*SPANS)
    prompts = [PROMPT, PROMPT[:5], PROMPT[:300], PROMPT]
    expected = [alone(*prompt) for prompt in prompts]
    for prompt, tokens in zip(prompts, expected, strict=True):
        assert run(machines, peers, prompt) == (tokens, [])


# The whole matrix is slow; what runs always has every stage.
ALWAYS = {
    (1, "SIGSTOP", 12),
    (2, "SIGKILL", 1),
    (0, "cut", 1),
}
MATRIX = [
    pytest.param(
        stage, death, at, marks=() if (stage, death, at) in ALWAYS else (pytest.mark.slow,)
    )
    for stage in range(3)
    for death in ("SIGKILL", "SIGSTOP", "cut", "reset")
    for at in (0, 1, 12, NUM_TOKENS - 1)
]


@pytest.mark.parametrize(("stage", "death", "at"), MATRIX)
def test_a_peer_that_dies_is_replaced_and_the_tokens_stay_the_same(
    machines: Machines, stage: int, death: str, at: int
) -> None:
    """Whichever stage it is; before the prompt, at the first, a middle and the last token."""
    peers = machines.start(*SPANS, SPANS[stage])
    expected = alone(*PROMPT)
    started = time.monotonic()
    tokens, told = run(machines, peers, PROMPT, at, (stage, death))
    assert tokens == expected
    assert any(isinstance(e, StageReplaced) and str(e.blocks) == SPANS[stage] for e in told)
    assert not [e.why for e in told if isinstance(e, StageLost) and FOREIGN.search(e.why)]
    assert time.monotonic() - started < GAP_S


def test_several_peers_stand_in_together_for_one(machines: Machines) -> None:
    """Where no single one has all blocks that were lost; what they host beyond them does not matter."""
    peers = machines.start(*SPANS)
    spares = machines.start("8:14", "14:23")
    expected = alone(*PROMPT)
    # Asleep until one is lost: which of five makes the fastest route is as their figures happen to be.
    for spare in spares:
        spare.signal(signal.SIGSTOP)

    def wake_the_spares(_: Event) -> None:
        for spare in spares:
            spare.signal(signal.SIGCONT)

    tokens, told = run(
        machines, [*peers, *spares], PROMPT, 12, (1, "SIGKILL"), on_event=wake_the_spares
    )
    assert tokens == expected
    replaced = [event.blocks for event in told if isinstance(event, StageReplaced)]
    assert replaced == [BlockSpan(10, 14), BlockSpan(14, 20)]


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_recovery_that_is_hit_itself_begins_again(machines: Machines, stage: int) -> None:
    """One of those who stand in dies while the text is given to it; another takes its part."""
    halves = ("0:5", "5:10") if stage == 0 else ("10:15", "15:20")
    peers = machines.start(*SPANS, *halves, *halves)
    expected = alone(*PROMPT)
    killers: list[threading.Timer] = []

    def kill_the_first_who_stands_in(event: Event) -> None:
        if isinstance(event, StageReplaced) and not killers:
            victim = next(p for p in peers if p.id == event.peer)
            # A replay of this prompt takes a second on one thread.
            killers.append(threading.Timer(0.25, victim.process.kill))
            killers[0].start()

    tokens, told = run(
        machines, peers, PROMPT, 12, (stage, "SIGKILL"), on_event=kill_the_first_who_stands_in
    )
    assert tokens == expected
    # On a machine that is busy, one that is only slow may be taken for lost, too.
    assert sum(isinstance(event, StageLost) for event in told) >= 2


@pytest.mark.parametrize("stage", [*(pytest.param(i, marks=pytest.mark.slow) for i in (0, 1)), 2])
def test_the_caller_takes_over_what_nobody_else_has(machines: Machines, stage: int) -> None:
    """The tokens stay the same, and peers pass their rows to it as to any other."""
    peers = machines.start(*SPANS)
    expected = alone(*PROMPT)
    tokens, told = run(machines, peers, PROMPT, 12, (stage, "SIGKILL"), takes_over=True)
    assert tokens == expected
    assert any(isinstance(e, StageReplaced) and str(e.blocks) == SPANS[stage] for e in told)


def test_without_a_replacement_the_error_is_clear_and_soon(machines: Machines) -> None:
    """And the text can be continued once somebody hosts the span again."""
    peers = machines.start(*SPANS)
    started = time.monotonic()
    with pytest.raises(CapacityError) as caught:
        run(machines, peers, PROMPT, 3, (1, "SIGKILL"))
    assert caught.value.code == "route.lost" and "10:20" in caught.value.message
    assert time.monotonic() - started < GAP_S
    again = [peers[0], *machines.start(SPANS[1]), peers[2]]
    assert run(machines, again, PROMPT) == (alone(*PROMPT), [])


def test_a_peer_that_comes_back_is_used_again(machines: Machines) -> None:
    """In the same text, once it was left alone for a while, when the one in its place is lost."""
    peers = machines.start(*SPANS, SPANS[1])
    expected = alone(*PROMPT)
    told: list[Event] = []

    async def answer() -> list[int]:
        node = Node(ModelOptions(context=1024, num_threads=1))
        addresses = [peer.address for peer in peers]
        async with (
            Neighbours(the_membership(None), addresses) as neighbours,
            open_over(
                node, machines.opening(), neighbours, takes_over=False, on_event=told.append
            ) as model,
        ):
            chain = model.route.stages[0]
            assert isinstance(chain, RemoteChain)
            first = machines.by_id[chain.spans[1].id]
            tokens: list[int] = []
            async for token in model.session(PROMPT, GREEDY).generate():
                assert token.id is not None
                tokens.append(token.id)
                if len(tokens) == 6:
                    first.signal(signal.SIGSTOP)
                elif len(tokens) == 12:
                    first.signal(signal.SIGCONT)
                    await asyncio.sleep(5)
                    machines.kill(model, 1, "SIGKILL")
            assert chain.spans[1].id == first.id
        node.close()
        return tokens

    with at_home(machines.caller):
        assert asyncio.run(answer()) == expected
    assert sum(isinstance(event, StageReplaced) for event in told) == 2


def test_a_host_that_comes_back_with_other_blocks_is_used_again(machines: Machines) -> None:
    """On a route that stays open: whether somebody asked in vain meanwhile, or hosts changed places."""
    ports = free_ports(2)
    homes = [member(machines.folder / f"changing-{i}", machines.caller) for i in range(2)]
    running: list[PeerProcess] = []
    addresses = [f"{LOOPBACK}:{port}" for port in ports]

    def host(*spans: str) -> None:
        while running:
            running.pop().__exit__()
        for blocks, home, port in zip(spans, homes, ports, strict=False):
            running.append(PeerProcess(machines.model, blocks, home, port=port))
        for peer in running:
            peer.wait_until_it_listens()

    async def play() -> None:
        node = Node(ModelOptions(context=1024, num_threads=1))
        async with (
            Neighbours(the_membership(None), addresses) as neighbours,
            open_over(node, machines.opening(), neighbours, takes_over=False) as model,
        ):

            async def answer() -> list[int | None]:
                return [token.id async for token in model.session(PROMPT[:5], GREEDY).generate()]

            assert await answer() == expected
            await asyncio.to_thread(host)
            with pytest.raises(CapacityError, match="no other peer has them"):
                await answer()
            await asyncio.to_thread(host, "0:15", "15:30")
            assert await answer() == expected
            await asyncio.to_thread(host, "15:30", "0:15")
            assert await answer() == expected
        node.close()

    expected = alone(*PROMPT[:5])
    try:
        host("0:30")
        with at_home(machines.caller):
            asyncio.run(play())
    finally:
        host()


def test_a_text_goes_on_when_it_is_cut_back_behind_a_recovery(machines: Machines) -> None:
    """What follows the new stage has its old rows; of the new ones it is given all."""
    peers = machines.start(*SPANS, SPANS[1])
    beginning, end = PROMPT[:40], PROMPT[40:64]

    async def compute() -> list[NDArray[np.float32]]:
        node = Node(ModelOptions(context=1024, num_threads=1))
        addresses = [peer.address for peer in peers]
        async with (
            Neighbours(the_membership(None), addresses) as neighbours,
            open_over(node, machines.opening(), neighbours, takes_over=False) as model,
        ):
            chain = model.route.stages[0]
            place = await chain.open([], 256)
            found = []
            for _ in range(2):
                await chain.forward(place, beginning, None, "none")
                found.append((await chain.forward(place, end, None, "last")).copy())
                machines.kill(model, 1, "SIGKILL") if len(found) == 1 else None
                await chain.forward(place, [5], None, "last")
                async with asyncio.timeout(GAP_S):
                    await chain.truncate(place, 0)
            chain.release(place, keep=False)
        node.close()
        return found

    with at_home(machines.caller):
        before, after = asyncio.run(compute())
    assert np.array_equal(before, after)


def test_the_command_runs_over_peers(machines: Machines) -> None:
    """`bmrt run --via` answers as `bmrt run` does, and says what is missing."""
    peers = machines.start(*SPANS)
    words = (str(machines.model), "a b c", "--json", "-t", "0", "-n", "12", "--raw")
    via = [word for peer in peers for word in ("--via", peer.address)]
    alone = json.loads(bmrt("run", *words, home=machines.caller).stdout)
    done = bmrt("run", *words, *via, home=machines.caller)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == alone["tokens"]
    done = bmrt("run", *words, *via[2:], home=machines.caller)
    assert done.returncode == 4 and "do not host all of the 30 blocks: 10:20, 20:30" in done.stderr


def test_strangers_are_not_answered(machines: Machines, tmp_path: Path) -> None:
    """A member of another swarm of the same name gets no answer, and gives none."""
    peers = machines.start("0:30")
    stranger = founder(tmp_path / "stranger")
    done = bmrt("run", str(machines.model), "a", "--raw", "--via", peers[0].address, home=stranger)
    assert done.returncode == 4 and "do not host all" in done.stderr
    assert peers[0].process.poll() is None
