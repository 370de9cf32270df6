"""Models that peers run for a machine that has only their header, or has them by another name."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import libtorrent as lt
import pytest

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.tasks import Tasks
from baremetalrt.hosting import headers
from baremetalrt.hosting.announcing import AnnouncementTimes, announce_on_dht
from baremetalrt.hosting.hosted_span import host_profile, load_hosted
from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.hosting.rendezvous import dht_lookup
from baremetalrt.membership.authority import the_membership
from baremetalrt.membership.identity import identity_of
from baremetalrt.node.events import ignore
from baremetalrt.node.node import Node
from baremetalrt.node.options import ModelOptions, SwarmOptions
from baremetalrt.peers.host import Host
from baremetalrt.peers.hosted import SeededAt
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.fetching import FetchedModel
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import default_model
from commands import BMRT, bmrt, environment
from peers_kit import PeerProcess, at_home, founder, member
from swarm_kit import LOOPBACK, TIMEOUT_S, free_ports
from tiny_models import TinyModel, write

NAME = "shared-model"
WORDS = ("a b c", "--raw", "-t", "0", "--threads", "1", "--context", "1024")


class Shared(NamedTuple):
    """A machine that shares a whole model, and the folder for homes of others."""

    folder: Path
    creator: Path
    path: Path
    host: PeerProcess
    alone: list[int]

    def home(self, name: str) -> Path:
        return member(self.folder / name, self.creator)

    @property
    def via(self) -> tuple[str, str]:
        return "--via", self.host.address

    def run(self, home: Path, name: str = NAME, *options: str) -> list[int]:
        done = bmrt("run", name, *WORDS, "-n", "8", "--json", *self.via, *options, home=home)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout)["tokens"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("shared")
    creator = founder(folder / "creator")
    path = folder / f"{NAME}.gguf"
    path.symlink_to(default_model().path)
    done = bmrt("run", str(path), *WORDS, "-n", "8", "--json", home=creator)
    with PeerProcess(path, "0:30", creator, seeds=True) as host:
        host.wait_until_it_listens()
        yield Shared(folder, creator, path, host, json.loads(done.stdout)["tokens"])


def torrents(home: Path) -> list[Path]:
    return list((home / "torrents").glob("*"))


def test_two_runs_on_one_machine_share_the_header(shared: Shared) -> None:
    """The second one, while the first still answers; a third one after both."""
    home = shared.home("two-runs")
    command = [*BMRT, "run", NAME, *WORDS, "-n", "900", *shared.via]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(home)
    ) as first:
        assert first.stdout is not None and first.stdout.read(1)
        assert shared.run(home) == shared.alone
        assert first.poll() is None, "the first one had ended before"
        first.kill()
    assert shared.run(home) == shared.alone


def test_a_machine_that_shares_a_part_runs_the_whole(shared: Shared) -> None:
    """Its own process has the torrent; the header is read beside it."""
    home = shared.home("part")
    room = ("--share-memory", "80MB", "--parallel", "1")
    with PeerProcess(NAME, None, home, *room, *shared.via, seeds=True) as sharing:
        assert sharing.hosts() != "0:30"
        assert b"keys and values for 1 texts of 1024 tokens" in sharing.said
        assert shared.run(home) == shared.alone


def test_plans_need_a_header_and_leave_nothing_in_the_swarm(shared: Shared) -> None:
    """Of what peers host, by its name; of a file, which nobody hears of by that."""
    home = shared.home("planning")
    planned = json.loads(bmrt("plan", NAME, "--json", *shared.via, home=home).stdout)
    assert planned["model"] == NAME
    assert [(s["device"], s["end"]) for s in planned["hosted"]["route"]] == [(shared.host.id, 30)]
    (entry,) = torrents(home)
    record = json.loads((entry / "record.json").read_text())
    assert record["wanted"] == [] and not record["is_complete"]
    # From now on without anybody else.
    again = json.loads(bmrt("plan", NAME, "--json", *shared.via, home=home).stdout)
    assert again["hosted"]["route"][0]["end"] == 30

    other = shared.home("planning-a-file")
    done = bmrt("plan", str(shared.path), "--json", *shared.via, home=other)
    assert json.loads(done.stdout)["hosted"] and not torrents(other)


def test_one_content_has_one_name(shared: Shared) -> None:
    """That of `bmrt ls` here; and by the name that others use it runs from the file that is here."""
    home = shared.home("names")
    (home / "models").mkdir()
    (home / "models" / "mine.gguf").symlink_to(default_model().path)
    assert shared.run(home, "mine") == shared.alone
    (row,) = json.loads(bmrt("ps", "--json", *shared.via, home=home).stdout)["spans"]
    assert (row["name"], row["called"]) == ("mine", NAME)
    printed = bmrt("ps", *shared.via, home=home)
    assert f"mine: {shared.host.id[:8]} calls it {NAME}" in printed.stderr
    assert "nobody hosts" not in printed.stderr
    assert shared.run(home, NAME) == shared.run(home, row["model"][:12]) == shared.alone
    assert not torrents(home)


def test_what_nobody_has_is_said_at_once(shared: Shared) -> None:
    """By its name, with who was asked."""
    home = shared.home("nothing")
    (port,) = free_ports(1)
    done = bmrt("run", "no-such", "x", "--via", f"{LOOPBACK}:{port}", "--json", home=home)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and error["code"] == "model.not-found"
    assert "nobody listens there" in error["message"]
    done = bmrt("run", NAME, "x", "--via", "nowhere", home=home)
    assert done.returncode == 2 and "is not an address" in done.stderr


class Made(NamedTuple):
    """A host in this process that says where a model is seeded, and nobody is there."""

    address: str
    host: Host
    caller: Path


@asynccontextmanager
async def made(
    folder: Path, seeded_at: SeededAt | None, byte_s: float | None = 1e-9
) -> AsyncIterator[Made]:
    caller = founder(folder / "caller")
    with at_home(member(folder / "host", caller)):
        identity = identity_of(the_membership(None))
    file = GGUFFile.open(write(TinyModel("llama"), folder / "tiny.gguf"))
    node = Node(ModelOptions(num_threads=1, context=256))
    blocks = BlockSpan(0, len(file.blocks))
    hosted = await load_hosted(node, file, "tiny", 64 * "c", blocks, 256)
    hosted.seeded_at = seeded_at
    host = Host(identity, host_profile(1 << 40, byte_s))
    host.hosted.append(hosted)
    await host.listen(f"{LOOPBACK}:0")
    try:
        async with host:
            yield Made(f"{LOOPBACK}:{host.port}", host, caller)
    finally:
        node.close()


async def run(home: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = await asyncio.to_thread(bmrt, *words, "--json", home=home)
    return done.returncode, json.loads(done.stdout)


def test_a_header_that_cannot_be_fetched_is_given_up_with_the_reason(tmp_path: Path) -> None:
    """The seed is not there: nobody waits for it, and it is named."""
    (port,) = free_ports(1)

    async def play() -> tuple[int, dict[str, Any]]:
        async with made(tmp_path, SeededAt(64 * "a", port, is_private=True)) as one:
            return await run(one.caller, "run", "tiny", "x", "--via", one.address)

    status, said = asyncio.run(play())
    assert status == 4 and said["error"]["code"] == "header.unreachable"
    assert f"{LOOPBACK}:{port}: nobody listens there" in said["error"]["message"]


def test_a_seed_that_sends_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there; after a while in which nothing comes, that is said."""
    monkeypatch.setattr(headers, "_PATIENCE_S", 4.0)

    async def play() -> None:
        async with await asyncio.start_server(lambda r, w: None, LOOPBACK, 0) as silent:
            port = silent.sockets[0].getsockname()[1]
            async with made(tmp_path, SeededAt(64 * "a", port, is_private=True)) as one:
                with at_home(one.caller):
                    async with Neighbours(the_membership(None), [one.address]) as neighbours:
                        finding = headers.find_header(
                            "tiny", neighbours, None, SwarmOptions(), ignore
                        )
                        async with finding:
                            pass

    with pytest.raises(CapacityError, match=rf"nothing comes from {LOOPBACK}") as caught:
        asyncio.run(play())
    assert caught.value.code == "header.unreachable"


def test_what_nobody_seeds_is_not_looked_for(tmp_path: Path) -> None:
    """Hosts that take part in no torrents cannot give a header."""

    async def play() -> tuple[int, dict[str, Any]]:
        async with made(tmp_path, None) as one:
            return await run(one.caller, "run", "tiny", "x", "--via", one.address)

    status, said = asyncio.run(play())
    assert status == 4 and "none of them seeds it" in said["error"]["message"]


def test_what_peers_call_the_same_may_be_another_file(tmp_path: Path) -> None:
    """It is said what theirs is, by which it can be run."""

    async def play() -> tuple[int, dict[str, Any]]:
        async with made(tmp_path, None) as one:
            # The host says that its content is another one.
            return await run(
                one.caller, "run", str(tmp_path / "tiny.gguf"), "x", "--via", one.address
            )

    status, said = asyncio.run(play())
    assert status == 4 and said["error"]["code"] == "route.incomplete"
    assert f"is another file: its content is {64 * 'c'}" in said["error"]["message"]


@pytest.mark.parametrize("byte_s", [None, 1e-30])
def test_no_plan_counts_on_a_peer_that_has_not_measured(
    byte_s: float | None, tmp_path: Path
) -> None:
    """However much room it says that it gives; nor on one that says what cannot be."""

    async def play() -> tuple[int, dict[str, Any], str]:
        async with made(tmp_path, None, byte_s) as one:
            model = str(default_model().path)
            status, said = await run(one.caller, "plan", model, "--via", one.address)
            return status, said, one.host.identity.id

    status, said, host = asyncio.run(play())
    assert status == 0 and said["unmeasured"] == [host]
    assert {stage["device"] for stage in said["plan"]["route"]} == {"here"}


class Swarms(NamedTuple):
    """The torrents of a process, as sharing wants them."""

    client: SwarmClient

    async def running_client(self) -> SwarmClient:
        return self.client

    def keep(self, fetched: FetchedModel) -> None:
        pass


def test_what_is_hosted_late_is_announced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine announced itself long before, and would do so again in ten minutes."""

    def begun_long_ago(times: AnnouncementTimes) -> None:
        times._pause_s = 600.0

    monkeypatch.setattr(AnnouncementTimes, "__init__", begun_long_ago)
    entrance = lt.session(
        {
            "listen_interfaces": f"{LOOPBACK}:0",
            "dht_bootstrap_nodes": "",
            "dht_restrict_routing_ips": False,
            **dict.fromkeys(("enable_lsd", "enable_upnp", "enable_natpmp"), False),
        }
    )
    beyond: dict[str, object] = {
        "offline": False,
        "dht": True,
        "dht_bootstrap": [f"{LOOPBACK}:{entrance.listen_port()}"],
    }

    async def play() -> None:
        membership, config = the_membership(None), SwarmOptions().config()
        hosted: list[str] = []
        is_news = asyncio.Event()
        async with (
            SwarmClient(config) as looking,
            SwarmClient(config, memberships=[membership]) as announcing,
            Tasks() as tasks,
        ):
            swarms = Swarms(announcing)
            announced = announce_on_dht(swarms, membership, 7470, lambda: hosted, is_news)
            tasks.start("announcing", announced)
            look = dht_lookup(looking, membership)
            assert await look("content") == []
            hosted.append("content")
            is_news.set()
            async with asyncio.timeout(TIMEOUT_S):
                while not (found := await look("content")):
                    pass
            assert found == [f"{LOOPBACK}:7470"]

    with at_home(founder(tmp_path / "home", **beyond)):
        asyncio.run(play())
