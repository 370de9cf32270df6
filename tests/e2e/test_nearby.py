"""Models that machines nearby offer: real processes that find each other on the loopback interface.

The hub counts what it sends. Models are made anew for each run: others may offer things meanwhile.
"""

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from baremetalrt.peers.discovery import LocalNetwork
from baremetalrt.peers.offer import Offer
from baremetalrt.peers.offers import OfferBoard, find_offers
from commands import ServerProcess, bmrt, wait_until
from hub_kit import Hub, hub_command, running
from peers_kit import PeerProcess, founder, member
from swarm_kit import LOOPBACK, OddPeer, Seeder, SeedProcess, make_home, publish_model, say_nothing

REPO = "Some-Owner/tiny-GGUF"
NAME = f"hf:{REPO}:Q4_K_M"
_PADDING = 3 << 20


@pytest.fixture(scope="module")
def model(talking_model: Path) -> bytes:
    return talking_model.read_bytes() + os.urandom(_PADDING)


@pytest.fixture
def hub(model: bytes) -> Iterator[Hub]:
    with running({REPO: {"tiny-Q4_K_M.gguf": model, "tiny-Q8_0.gguf": model[:-1]}}) as hub:
        yield hub


def near_home(folder: Path, **settings: object) -> Path:
    return make_home(folder, **{"offline": False, "local_discovery": True, **settings})


def pulled(hub: Hub, home: Path, name: str = NAME) -> tuple[dict[str, Any], str, int]:
    """What a pull prints, what it says, and how much the hub has sent for it."""
    before = hub.sent_bytes
    done = hub_command(hub, home, "pull", name, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr, hub.sent_bytes - before


@contextmanager
def offering(offer: Offer) -> Iterator[None]:
    """Says on the network what may not be so."""
    is_shown, is_over = threading.Event(), threading.Event()

    async def show() -> None:
        async with OfferBoard(LocalNetwork(LOOPBACK)) as board:
            await board.show([offer])
            is_shown.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(show()))
    thread.start()
    try:
        assert is_shown.wait(60)
        yield
    finally:
        is_over.set()
        thread.join()


def is_offered(infohash: str) -> bool:
    network = LocalNetwork(LOOPBACK)
    found = find_offers(network, timeout_s=2.0, is_wanted=lambda offer: offer.torrent == infohash)
    return any(one.offer.torrent == infohash for one in asyncio.run(found))


def torrents_here(home: Path) -> list[str]:
    rows = json.loads(bmrt("ls", "--json", home=home).stdout)
    return [row["infohash"] for row in rows if row["infohash"]]


def test_the_second_machine_in_the_house_fetches_from_the_first(
    hub: Hub, model: bytes, tmp_path: Path
) -> None:
    """And has it then as if it came from the hub: by its name there, and not twice."""
    first, second, third = (near_home(tmp_path / name) for name in ("1", "2", "3"))
    said, told, sent = pulled(hub, first)
    assert sent == len(model) and "nearby" not in told
    with ServerProcess("--context", "256", home=first):
        wait_until(lambda: is_offered(said["infohash_v2"]))
        got, told, sent = pulled(hub, second)
        assert "comes from a machine nearby, 127.0.0.1:" in told
        assert sent == 0 and Path(got["path"]).read_bytes() == model
        assert got["infohash_v2"] == said["infohash_v2"]
        # A file that nobody nearby has comes from the hub.
        _, told, sent = pulled(hub, second, f"hf:{REPO}:Q8_0")
        assert sent == len(model) - 1 and "nearby" not in told
    for name in (f"hf:{REPO}:Q4_K_M", "tiny-Q4_K_M"):
        run = hub_command(hub, second, "run", name, "-t", "0", "-n", "2", "hello")
        assert run.returncode == 0, run.stderr
    _, _, sent = pulled(hub, second)
    assert sent == 0
    # What came from a neighbour is offered to the next.
    with SeedProcess(got["infohash_v2"], home=second):
        _, told, sent = pulled(hub, third)
    assert sent == 0 and "nearby" in told


def test_who_looks_for_nobody_asks_the_hub(hub: Hub, model: bytes, tmp_path: Path) -> None:
    """Nor does who wants not to be found offer anything."""
    first = near_home(tmp_path / "1")
    said, _, _ = pulled(hub, first)
    closed = near_home(tmp_path / "2", local_discovery=False)
    with SeedProcess(said["infohash_v2"], home=first):
        _, told, sent = pulled(hub, closed)
    assert sent == len(model) and "nearby" not in told
    with SeedProcess(said["infohash_v2"], home=closed):
        _, told, sent = pulled(hub, near_home(tmp_path / "3"))
    assert sent == len(model) and "nearby" not in told


def test_a_neighbour_that_lies_is_left(hub: Hub, model: bytes, tmp_path: Path) -> None:
    """What it sent is thrown away, and the hub has the last word."""
    liar, home = near_home(tmp_path / "liar"), near_home(tmp_path / "home")
    other = tmp_path / "other.gguf"
    other.write_bytes(model[:-_PADDING] + bytes(_PADDING))
    (made,) = map(
        json.loads,
        bmrt("seed", str(other), "--create-only", "--json", home=liar).stdout.splitlines(),
    )
    (path,) = (liar / "torrents").glob("*/record.json")
    record = json.loads(path.read_text())
    record |= {"sha256": hashlib.sha256(model).hexdigest(), "hub_files": ["a/b/c.gguf"]}
    path.write_text(json.dumps(record))
    with SeedProcess(made["infohash_v2"], home=liar):
        got, told, sent = pulled(hub, home)
    assert "is left: what it sent is not what the hub has" in told
    assert sent == len(model) and Path(got["path"]).read_bytes() == model
    assert made["infohash_v2"] not in torrents_here(home)
    assert got["infohash_v2"] != made["infohash_v2"]


@pytest.mark.parametrize("sends", ["nothing", "a part"])
def test_a_neighbour_that_stalls_is_left(
    sends: str, hub: Hub, model: bytes, tmp_path: Path
) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(model)
    metainfo = publish_model(source)

    def offer(peer: str) -> Offer:
        assert metainfo.infohash_v2 is not None
        return Offer(
            name="tiny",
            torrent=metainfo.infohash_v2,
            num_bytes=len(model),
            port=int(peer.rpartition(":")[2]),
            sha256=hashlib.sha256(model).hexdigest(),
        )

    staller: Any = (
        OddPeer(say_nothing)
        if sends == "nothing"
        else Seeder(metainfo.raw, source, pieces=range(3))
    )
    home = near_home(tmp_path / "home")
    with staller, offering(offer(staller.peer)):
        got, told, sent = pulled(hub, home)
    assert "is left: nothing comes from it" in told
    assert sent == len(model) and Path(got["path"]).read_bytes() == model
    # It is the hub's file then, and not a torrent half fetched.
    assert torrents_here(home) == [metainfo.infohash_v2]
    assert str(home / "models") in got["path"]


def test_an_offer_of_another_size_is_not_fetched(hub: Hub, model: bytes, tmp_path: Path) -> None:
    """The torrent behind the hash has more bytes than it was offered with."""
    source = tmp_path / "source.gguf"
    source.write_bytes(model + bytes(5 << 20))
    metainfo = publish_model(source)
    assert metainfo.infohash_v2 is not None
    home = near_home(tmp_path / "home")
    with Seeder(metainfo.raw, source) as seeder:
        offer = Offer(
            name="tiny",
            torrent=metainfo.infohash_v2,
            num_bytes=len(model),
            port=seeder.port,
            sha256=hashlib.sha256(model).hexdigest(),
        )
        with offering(offer):
            _, told, sent = pulled(hub, home)
        assert "offers another file than it says" in told and sent == len(model)
        assert not seeder.uploaded_bytes


def test_what_was_not_compared_is_nobodys_model_until_it_is_named(
    model: bytes, tmp_path: Path
) -> None:
    """As after a fetch from a neighbour that was interrupted: its torrent may be anything."""
    home, source = near_home(tmp_path / "home", local_discovery=False), tmp_path / "source.gguf"
    source.write_bytes(model)
    made = json.loads(bmrt("seed", str(source), "--create-only", "--json", home=home).stdout)
    (path,) = (home / "torrents").glob("*/record.json")
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"hub_files": [f"{REPO}/x-Q4_K_M.gguf"]})
    )
    for name in (NAME, "x-Q4_K_M"):
        run = bmrt("run", name, "-n", "1", "hello", home=home)
        assert run.returncode == 2 and not run.stdout, run.stderr
    named = bmrt("pull", made["infohash_v2"], "--json", home=home)
    assert named.returncode == 0, named.stderr
    assert json.loads(path.read_text())["hub_files"] == []


def near(home: Path, *words: str) -> list[dict[str, Any]]:
    """What is offered nearby."""
    command = ("search", *words) if words else ("ls",)
    done = bmrt("index", *command, "--near", "--json", home=home)
    assert done.returncode == 0, done.stderr
    return [row for row in json.loads(done.stdout) if "infohash" in row]


def only(rows: Sequence[dict[str, Any]], infohash: str) -> dict[str, Any]:
    (found,) = (row for row in rows if row["infohash"] == infohash)
    return found


def test_what_is_offered_is_shown_and_never_guessed(model: bytes, tmp_path: Path) -> None:
    """A name that somebody nearby uses means nothing here; its info-hash does."""
    source, home = tmp_path / "source.gguf", near_home(tmp_path / "home")
    source.write_bytes(model)
    with SeedProcess(source, home=near_home(tmp_path / "seed")) as seed:
        infohash, name = seed.torrent["infohash_v2"], seed.torrent["name"]
        row = only(near(home), infohash)
        assert row["name"] == name and row["bytes"] == len(model) and row["here"] is False
        assert row["peers"] == [seed.peer] and row["swarm"] is None
        assert only(near(home, name[:4]), infohash) == row
        assert all(one["infohash"] != infohash for one in near(home, "nothing-of-that-kind"))
        shown = bmrt("index", "ls", "--near", home=home)
        assert infohash in shown.stdout and "qwen" in shown.stdout
        assert infohash not in bmrt("index", "ls", home=home).stdout
        refused = bmrt("pull", name, home=home)
        assert refused.returncode == 2 and f"bmrt pull {infohash}" in refused.stderr
        done = bmrt("pull", infohash, "--peer", row["peers"][0], "--json", home=home)
        assert done.returncode == 0, done.stderr
        assert only(near(home), infohash)["here"] is True


def test_members_of_a_private_swarm_are_told_of_its_models(model: bytes, tmp_path: Path) -> None:
    """By the compute plane; on the local network nobody hears of them."""
    caller = founder(tmp_path / "caller", local_discovery=True)
    host = member(tmp_path / "host", caller, local_discovery=True)
    source = tmp_path / "source.gguf"
    source.write_bytes(model)
    with PeerProcess(source, "0:1", host, seeds=True) as peer:
        peer.wait_until_it_listens()
        wait_until(lambda: bool(near(caller)))
        rows = near(caller)
        (report,) = json.loads(bmrt("peers", "--json", home=caller).stdout)
        stranger = near(near_home(tmp_path / "stranger"))
    (offer,) = report["offers"]
    assert offer["bytes"] == len(model) and offer["private"] is True
    row = only(rows, offer["infohash"])
    assert row["swarm"] == "home" and row["peers"] == [offer["peer"]]
    assert all(one["infohash"] != offer["infohash"] for one in stranger)
