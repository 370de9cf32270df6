"""Peers that find each other on a LAN of several machines, and what `--offline` keeps from leaving it.

The machines are network namespaces; every packet to or through their gateway is seen.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baremetalrt.weights.store import default_model
from namespaces import HAS_V6, NAMESERVER, TIMEOUT_S, Host, Lan, NotPermitted
from swarm_kit import make_home, sha256, write_model
from tiny_models import TinyModel, write

PORT = 6881
# Everybody that a torrent and a configuration can name, all of them beyond the LAN.
TRACKERS = (
    "http://203.0.113.1:7001/announce",
    "udp://203.0.113.2:7002",
    "http://tracker.example/announce",
)
MIRRORS = ("http://203.0.113.3:7003/model.gguf", "http://mirror.example/model.gguf")
PEERS = ("203.0.113.4:7004", *(["[2001:db8::4]:7005"] if HAS_V6 else []))
DHT_NODES = ("203.0.113.5:7006", "router.example:7007")
NAMED = {
    "tcp 203.0.113.1:7001",
    "udp 203.0.113.2:7002",
    "tcp 203.0.113.3:7003",
    *(f"tcp {peer}" for peer in PEERS),
    "udp 203.0.113.5:7006",
    *(f"udp {NAMESERVER}:53 {name}.example" for name in ("tracker", "mirror", "router")),
    "udp 10.77.0.1:5351",  # NAT-PMP
    "udp 239.255.255.250:1900",  # UPnP
}


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Three machines and their gateway."""
    try:
        made = Lan(3)
    except NotPermitted as reason:
        pytest.skip(f"no network namespaces here: {reason}")
    with made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that travels."""
    return write_model(tmp_path_factory.mktemp("model"))


def lan_home(folder: Path, **settings: object) -> Path:
    """A home that nobody is found from, unless `settings` say how."""
    own: dict[str, object] = {"offline": False, "listen": "0.0.0.0", "port": PORT}
    return make_home(folder, **(own | settings))


def peer(host: Host) -> tuple[str, str]:
    """The option that names this machine."""
    return "--peer", f"{host.address}:{PORT}"


def is_whole(result: dict[str, Any], model: Path) -> bool:
    return result["complete"] is True and sha256(Path(result["path"])) == sha256(model)


# How peers are found


def test_a_seed_on_the_lan_is_found_without_being_named(
    lan: Lan, model: Path, tmp_path: Path
) -> None:
    """With a magnet link and nothing else: local service discovery."""
    a, b, _ = lan.hosts
    homes = [lan_home(tmp_path / name, local_discovery=True) for name in "ab"]
    with a.seed(model, home=homes[0]) as seed:
        found = b.answer("pull", seed.torrent()["magnet"], home=homes[1])
    assert is_whole(found, model)


def test_a_seed_on_the_lan_is_found_again_at_once(lan: Lan, model: Path, tmp_path: Path) -> None:
    """By who had the model, removed it, and wants it again, or a part of it.

    The seed believes that they have all of it, and calls nobody who has; its own announcements are
    minutes apart.
    """
    a, b, _ = lan.hosts
    homes = [lan_home(tmp_path / name, local_discovery=True) for name in "ab"]
    with a.seed(model, home=homes[0]) as seed:
        magnet = seed.torrent()["magnet"]
        for arguments in ((), (), ("--blocks", "0:2"), ()):
            found = b.answer("pull", magnet, *arguments, home=homes[1], timeout_s=150)
            assert is_whole(found, model) or arguments
            with b.start("rm", found["name"], home=homes[1]) as removing:
                removing.finish()


def test_what_is_seeded_on_the_lan_is_listed(lan: Lan, model: Path, tmp_path: Path) -> None:
    """With the address where it is; offline too, and nothing of it leaves the LAN."""
    a, b, _ = lan.hosts
    home = lan_home(tmp_path / "a", local_discovery=True, offline=True)
    with a.seed(model, home=home) as seed:
        infohash = seed.torrent()["infohash_v2"]
        looking = lan_home(tmp_path / "b", local_discovery=True, offline=True)
        rows: Any = b.answer("index", "ls", "--near", home=looking)
        (found,) = [row for row in rows if "infohash" in row]
        closed: Any = b.answer("index", "ls", "--near", home=lan_home(tmp_path / "closed"))
    assert found["infohash"] == infohash and found["peers"] == [f"{a.address}:{PORT}"]
    assert not [row for row in closed if "infohash" in row]
    assert not lan.sent_beyond()


def test_a_dht_of_ones_own_is_enough(lan: Lan, model: Path, tmp_path: Path) -> None:
    """All that seed and puller know is a third machine, which has another model and only its DHT node.

    Nothing goes beyond the LAN, as no other node is named.
    """
    a, b, c = lan.hosts
    other = write(TinyModel("llama"), tmp_path / "other.gguf")
    entrance = {"dht": True, "dht_bootstrap": [f"{a.address}:{PORT}"]}
    first = lan_home(tmp_path / "a", dht=True, dht_bootstrap=[])
    homes = [lan_home(tmp_path / name, **entrance) for name in "bc"]
    with a.seed(other, home=first), b.seed(model, home=homes[0]) as seed:
        found = c.answer("pull", seed.torrent()["magnet"], home=homes[1])
    assert is_whole(found, model)
    assert not lan.sent_beyond()


def test_a_peer_tells_of_another(lan: Lan, model: Path, tmp_path: Path) -> None:
    """Who knows only one that lacks most of the model gets the rest from one which that one knows."""
    a, b, c = lan.hosts
    part_home = lan_home(tmp_path / "a")
    with b.seed(model, "--limit-up", "8MB/s", home=lan_home(tmp_path / "b")) as seed:
        magnet = seed.torrent()["magnet"]
        part = a.answer("pull", magnet, "--blocks", "0:1", *peer(b), home=part_home)
        assert part["downloaded_bytes"] < 0.9 * model.stat().st_size
        with a.seed(part["name"], *peer(b), home=part_home):
            found = c.answer("pull", magnet, *peer(a), home=lan_home(tmp_path / "c"))
    assert is_whole(found, model)


def test_an_interrupted_pull_finds_its_seed_again(lan: Lan, model: Path, tmp_path: Path) -> None:
    """Without being told a second time, and after a run in which nobody was there.

    The seed knows nobody any more: it lost its home meanwhile. The pull is interrupted after some ten
    pieces: libtorrent's own memory leaves out who sent 8 to 15.
    """
    a, b, _ = lan.hosts
    home = lan_home(tmp_path / "b")
    with a.seed(model, "--limit-up", "1MB/s", home=lan_home(tmp_path / "a")) as seed:
        magnet = seed.torrent()["magnet"]
        with b.start("pull", magnet, *peer(a), home=home) as pull:
            pull.wait_for(r"[2-9]\d\.\d %")
    with b.start("pull", magnet, home=home) as pull:
        pull.wait_for(r"[2-9]\d\.\d %.* 0 peers")
    with a.seed(model, home=lan_home(tmp_path / "a, again")):
        found = b.answer("pull", magnet, home=home)
    assert is_whole(found, model)
    assert found["downloaded_bytes"] < model.stat().st_size


# What leaves the LAN


@pytest.fixture(scope="module")
def usable_model() -> Path:
    """One that answers."""
    found = default_model()
    assert found is not None
    return found.path


def open_home(folder: Path, **settings: object) -> Path:
    """A home that looks for peers in every way there is."""
    ways = {"local_discovery": True, "dht": True, "port_mapping": True}
    return lan_home(folder, **(ways | {"dht_bootstrap": list(DHT_NODES)} | settings))


def naming_everybody(option: str, values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in (option, value)]


PUBLISH = (*naming_everybody("--tracker", TRACKERS), *naming_everybody("--web-seed", MIRRORS))


def link(magnet: str) -> str:
    """A seed's link, which has its trackers and mirrors; and peers."""
    assert magnet.count("&tr=") == len(TRACKERS) and magnet.count("&ws=") == len(MIRRORS)
    return magnet + "".join(f"&x.pe={peer}" for peer in PEERS)


ASK = ("What is a torrent?", "-t", "0", "-n", "4", "--threads", "1")


def test_offline_nothing_leaves_the_lan(lan: Lan, usable_model: Path, tmp_path: Path) -> None:
    """Seeding, pulling by link and by file, running: no packet, no lookup, whoever is named."""
    a, b, c = lan.hosts
    with a.seed(usable_model, *PUBLISH, "--offline", home=open_home(tmp_path / "a")) as seed:
        torrent = seed.torrent()
        magnet = link(torrent["magnet"])
        pulled = b.answer("pull", magnet, "--offline", home=open_home(tmp_path / "b"))
        by_file = open_home(tmp_path / "by file", offline=True)
        again = c.answer("pull", torrent["torrent"], home=by_file)
        said = c.answer("run", magnet, *ASK, "--offline", home=open_home(tmp_path / "c"))
    assert is_whole(pulled, usable_model) and is_whole(again, usable_model)
    assert len(said["tokens"]) == 4
    assert not lan.sent_beyond()


def test_otherwise_everybody_who_is_named_is_asked(
    lan: Lan, usable_model: Path, tmp_path: Path
) -> None:
    """The same without `--offline`: trackers, mirrors, peers, DHT nodes, the router, the name server."""
    a, b, c = lan.hosts
    limit = ("--limit-up", "10MB/s")
    with a.seed(usable_model, *PUBLISH, *limit, home=open_home(tmp_path / "a")) as seed:
        magnet = link(seed.torrent()["magnet"])
        with (
            b.start("pull", magnet, home=open_home(tmp_path / "b")),
            c.start("run", magnet, *ASK, home=open_home(tmp_path / "c")),
        ):
            lan.wait_sent_beyond(*NAMED)


@pytest.mark.parametrize("beyond", ["203.0.113.9:6881", "seed.example:6881", "[2001:db8::9]:6881"])
def test_offline_no_peer_beyond_the_lan_is_taken(
    beyond: str, lan: Lan, model: Path, tmp_path: Path
) -> None:
    """It is an error that names the peer, and neither the peer nor a name server hears of it."""
    home = lan_home(tmp_path / "home")
    for command in (("pull", 40 * "a"), ("seed", str(model))):
        with lan.hosts[0].start(*command, "--offline", "--peer", beyond, home=home) as refused:
            refused.wait_for(r"error: .*the peer \S+ (is not on the local network|cannot be)")
            assert refused.process.wait(TIMEOUT_S) == 2
    assert not lan.sent_beyond()
