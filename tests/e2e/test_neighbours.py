"""Machines that find each other on the local network, choose what to host, and are planned with."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from baremetalrt.hosting.neighbours import Neighbours, local_network
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.hosting.plans import PlanRequest, make_plan
from baremetalrt.hosting.remote_model import is_faster_over_peers
from baremetalrt.membership.authority import the_membership
from baremetalrt.node.options import ModelOptions, SwarmOptions
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import default_model
from commands import ServerProcess, bmrt
from peers_kit import PeerProcess, at_home, founder, member

# The loopback interface is the whole network here.
FOUND: dict[str, object] = {"local_discovery": True}
LISTENING = re.compile(rb"listening on (http://\S+)/v1")
QUESTION = ("Name three colours.", "-t", "0", "-n", "16", "--json")


class Network:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = default_model().path
        self.caller = founder(folder / "caller", **FOUND)
        self.peers: list[PeerProcess] = []
        self.stack = ExitStack()

    def start(self, blocks: str | None, *options: str) -> PeerProcess:
        home = member(self.folder / f"peer-{len(self.peers)}", self.caller, **FOUND)
        peer = self.stack.enter_context(PeerProcess(self.model, blocks, home, *options))
        self.peers.append(peer)
        return peer.wait_until_it_listens()

    def call(self, *words: str) -> Any:
        done = bmrt(*words, "--json", home=self.caller)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    with made.stack:
        yield made


def test_peers_are_found_and_a_model_runs_over_them(network: Network) -> None:
    """Nobody names an address; the answer is that of one machine alone."""
    first, second = network.start("0:12"), network.start("12:30")
    alone = bmrt("run", *QUESTION, home=network.caller)
    over = bmrt("run", *QUESTION, "--route", "lan", home=network.caller)
    assert over.returncode == 0, over.stderr
    assert json.loads(over.stdout)["tokens"] == json.loads(alone.stdout)["tokens"]

    peers = {peer["id"]: peer for peer in network.call("peers")}
    assert peers.keys() == {first.id, second.id}
    for peer in peers.values():
        assert peer["round_trip_s"] > 0 and peer["bytes_per_s"] > 0

    spans = network.call("ps")["spans"]
    assert [(s["peer"], s["start"], s["end"]) for s in spans] == [
        (first.id, 0, 12),
        (second.id, 12, 30),
    ]
    assert all(s["step_s"] > 0 and s["num_texts"] == 0 for s in spans)


def test_a_plan_names_machines_bytes_and_seconds(network: Network) -> None:
    """With too little room here, the peers are used."""
    network.start("0:12")
    network.start("12:30")
    plan = network.call("plan", "--measure")
    assert [(s["start"], s["end"]) for s in plan["hosted"]["route"]] == [(0, 12), (12, 30)]
    # None bounds another: they come from what machines measured, what hosts saw, and just now.
    for seconds in (plan["plan"]["token_s"], plan["hosted"]["token_s"], plan["measured_token_s"]):
        assert seconds > 0
    small = network.call("plan", "--memory", "60MB")["plan"]["route"]
    assert any(stage["device"] != "here" for stage in small)
    assert all(s["bytes"] <= 60e6 for s in small if s["device"] == "here")


def test_one_machine_is_best_where_it_has_room_and_is_fast(network: Network) -> None:
    """As it is said to be: one that takes no time needs no peer, and beside a slow one all are of use."""
    network.start("0:12")
    network.start("12:30")
    request = PlanRequest(
        model=default_model(),
        options=ModelOptions(),
        route=RouteOptions(via=tuple(peer.address for peer in network.peers)),
        swarm=SwarmOptions(),
    )

    def devices(byte_s: float) -> list[str]:
        plan = asyncio.run(make_plan(request, measure=lambda node, file: byte_s))
        return [stage.device for stage in plan.best.route]

    with at_home(network.caller):
        assert devices(1e-15) == ["here"]
        assert "here" not in devices(1e-3)


def test_a_machine_that_joins_hosts_what_is_missing(network: Network) -> None:
    """Without being told, and within the memory that it gives."""
    network.start("0:18")
    network.start(None, "--share-memory", "80MB", "--parallel", "1")
    spans = network.call("ps")["spans"]
    assert spans[1]["start"] >= 30 - 18 and spans[1]["end"] == 30
    assert spans[1]["num_cells"] == 1024 and spans[1]["num_bytes"] < 80e6


def ask(url: str, question: str) -> str:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model=default_model().name,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=16,
        )
    return str(answer.choices[0].message.content)


def test_a_machine_that_shares_a_whole_model_answers_with_it_too(network: Network) -> None:
    """Over HTTP and for peers, from the same weights."""
    peer = network.start("0:30")
    url = peer.wait_for(LISTENING)[1].decode()
    alone = network.call("run", "Name three colours.", "-t", "0", "-n", "16", "--threads", "1")
    assert ask(url, "Name three colours.") == alone["text"]
    over = network.call("run", *QUESTION[:-1], "--route", "lan")
    assert over["text"] == alone["text"]


def test_a_machine_that_shares_a_part_answers_once_peers_have_the_rest(network: Network) -> None:
    """With `--route lan`; until then it hosts its part and says what is missing."""
    first = network.start("0:12", "--route", "lan")
    url = first.wait_for(LISTENING)[1].decode()
    first.wait_for(re.compile(rb"not answered over peers yet: .*: 0:12"))
    network.start("12:30")
    first.wait_for(re.compile(rb"tokens of context, over peers"))
    alone = network.call("run", "Name three colours.", "-t", "0", "-n", "16", "--threads", "1")
    assert ask(url, "Name three colours.") == alone["text"]


def test_peers_are_used_unasked_only_where_they_are_clearly_faster(network: Network) -> None:
    """Beside a machine that takes no time they are not; beside one as slow as an abacus they are."""
    network.start("0:12")
    network.start("12:30")
    file = GGUFFile.open(network.model)

    async def is_faster(byte_s: float) -> bool:
        membership = the_membership(None)
        async with Neighbours(membership, network=local_network(membership)) as neighbours:
            return await is_faster_over_peers(
                file, ModelOptions(), neighbours, measure=lambda node, file: byte_s
            )

    with at_home(network.caller):
        assert not asyncio.run(is_faster(0.0))
        assert asyncio.run(is_faster(1e-6))


def test_callers_at_once_get_their_own_answers_through_the_api(network: Network) -> None:
    """`bmrt serve --route lan` answers the OpenAI client from machines elsewhere."""
    network.start("0:12")
    network.start("12:30")
    questions = [f"What is {n} plus {n}?" for n in range(4)]

    async def ask_all(base_url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model=default_model().name,
                        messages=[{"role": "user", "content": question}],
                        temperature=0,
                        max_tokens=16,
                    )
                    for question in questions
                )
            )
        return [str(answer.choices[0].message.content) for answer in answers]

    options = ("--threads", "1", "--context", "1024")
    with ServerProcess(*options, "--route", "lan", home=network.caller) as server:
        over = asyncio.run(ask_all(f"{server.url}/v1"))
    alone = [
        network.call("run", q, "-t", "0", "-n", "16", "--threads", "1")["text"] for q in questions
    ]
    assert over == alone
