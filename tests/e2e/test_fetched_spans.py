"""Machines that host a model of which they had nothing: they fetch a span, and go where it is needed."""

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from baremetalrt.swarm.catalog import Entry
from baremetalrt.swarm.obtaining import add_torrent
from baremetalrt.weights.store import default_model
from commands import ServerProcess, bmrt
from peers_kit import PeerProcess, at_home, founder, member
from swarm_kit import Seeder, publish_model, write_model

# The loopback interface is the whole network here.
FOUND: dict[str, object] = {"local_discovery": True}
NAME = "swarm-model"
WORDS = ("a b c", "--raw", "-t", "0", "-n", "8", "--json")
# Room for about half of the 30 blocks, wherever they lie.
ROOM = ("--share-memory", "88MB", "--parallel", "1")
SOON = "\n[share]\nrebalance_s = 2\n"


class Swarm:
    """One machine has the file; the others have nothing but their membership."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.creator = founder(folder / "creator", **FOUND)
        # Under a name that no machine knows from its own packages.
        self.path = folder / f"{NAME}.gguf"
        self.path.symlink_to(default_model().path)
        self.alone = self.answer(self.creator, str(self.path))
        self.count = 0

    def home(self, settings: str = "") -> Path:
        self.count += 1
        home = member(self.folder / f"home-{self.count}", self.creator, **FOUND)
        with (home / "config.toml").open("a") as file:
            file.write(settings)
        return home

    def start(self, blocks: str | None, *options: str, settings: str = "") -> PeerProcess:
        """With `blocks`, one that has the file; without, one that hosts whatever is needed."""
        peer = PeerProcess(
            self.path if blocks else None, blocks, self.home(settings), *options, seeds=True
        )
        return self.stack.enter_context(peer)

    def answer(self, home: Path, model: str, *options: str) -> Any:
        done = bmrt("run", model, *WORDS, *options, home=home)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["tokens"]


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with ExitStack() as stack:
        yield Swarm(tmp_path, stack)


def fetched_bytes(home: Path) -> int:
    """What the torrents of a home take on disk."""
    return sum(Entry.open(folder).allocated_bytes() for folder in (home / "torrents").iterdir())


def test_a_machine_with_nothing_fetches_and_hosts_what_the_swarm_lacks(swarm: Swarm) -> None:
    """Its span alone; and a caller with nothing runs the model by its name, from the header."""
    assert swarm.start("0:18").hosts() == "0:18"
    start, _, end = swarm.start(None, *ROOM).hosts().partition(":")
    # Spans that overlap: a stage computes as much of its own as the route asks for.
    assert int(start) < 18 and end == "30"
    size = swarm.path.stat().st_size
    assert 0.3 * size < fetched_bytes(swarm.folder / "home-2") < 0.8 * size
    caller = swarm.home()
    assert swarm.answer(caller, NAME, "--route", "lan") == swarm.alone
    assert fetched_bytes(caller) < 0.3 * size


def test_a_machine_moves_to_blocks_that_were_lost(swarm: Swarm) -> None:
    """And fetches them from somebody who was not there when it began."""
    first = swarm.start("13:30")
    assert first.hosts() == "13:30"
    moving = swarm.start(None, *ROOM, settings=SOON)
    assert moving.hosts().startswith("0:")
    assert swarm.start("0:14").hosts() == "0:14"
    first.process.kill()
    assert moving.hosts().endswith(":30")
    assert swarm.answer(swarm.home(), NAME, "--route", "lan") == swarm.alone


def test_a_server_answers_with_a_model_that_only_peers_have(swarm: Swarm) -> None:
    """`bmrt serve NAME --route lan`, on a machine that has nothing of it."""
    assert swarm.start("0:30").hosts() == "0:30"
    with (
        ServerProcess(NAME, "--route", "lan", home=swarm.home()) as server,
        urllib.request.urlopen(f"{server.url}/v1/models") as answer,
    ):
        models = json.load(answer)["data"]
    assert [model["id"] for model in models] == [NAME]


def test_peers_meet_on_the_dht(tmp_path: Path) -> None:
    """Where multicast does not reach; all that both know is one node, which is in no swarm."""
    node = lt.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            "dht_bootstrap_nodes": "",
            "dht_restrict_routing_ips": False,
            **dict.fromkeys(("enable_lsd", "enable_upnp", "enable_natpmp"), False),
        }
    )
    beyond: dict[str, object] = {
        "offline": False,
        "dht": True,
        "dht_bootstrap": [f"127.0.0.1:{node.listen_port()}"],
    }
    caller = founder(tmp_path / "caller", **beyond)
    home = member(tmp_path / "peer", caller, **beyond)
    with PeerProcess(default_model().path, "0:30", home, seeds=True) as peer:
        peer.wait_until_it_listens()
        words = ("run", str(default_model().path), *WORDS)
        alone = bmrt(*words, home=caller)
        assert json.loads(bmrt("peers", "--json", home=caller).stdout) == []
        over = bmrt(*words, "--route", "swarm", home=caller)
        assert over.returncode == 0, over.stderr
        assert json.loads(over.stdout)["tokens"] == json.loads(alone.stdout)["tokens"]
        (found,) = json.loads(bmrt("peers", "--route", "swarm", "--json", home=caller).stdout)
        assert found["id"] == peer.id


def test_a_host_that_cannot_begin_tries_again(tmp_path: Path) -> None:
    """While another program has the torrent nothing can be hosted; it says so once, and then hosts."""
    path = write_model(tmp_path)
    metainfo = publish_model(path)
    file = tmp_path / "model.torrent"
    file.write_bytes(metainfo.raw)
    home = founder(tmp_path / "home")
    with at_home(home):
        entry = add_torrent(metainfo).entry
    with Seeder(metainfo.raw, path) as seed, ExitStack() as another:
        another.enter_context(entry.locked())
        with PeerProcess(file, "0:4", home, "--peer", seed.peer, seeds=True) as host:
            host.wait_for(re.compile(rb"nothing more is hosted: .* in use by another"))
            another.close()
            assert host.hosts() == "0:4"
            assert host.said.count(b"nothing more is hosted") == 1


def test_settings_share_without_an_option(swarm: Swarm) -> None:
    """`[share]` says what `--share` would; peers that are not on the list are not answered."""
    listen = "127.0.0.1:0"
    settings = f'''
[share]
enabled = true
models = [{json.dumps(str(swarm.path))}]
memory = "80MB"
listen = "{listen}"
allow = ["{"0" * 40}"]
'''
    home = swarm.home(settings)
    options = ("--threads", "1", "--context", "1024", "--parallel", "1")
    with ServerProcess(*options, home=home) as server:
        assert server.port
        done = bmrt("peers", "--json", home=swarm.home())
        assert json.loads(done.stdout) == [] and "peer.not-allowed" in done.stderr
