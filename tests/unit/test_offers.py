"""What others on the local network say of their models is bounded, and so is what this machine says."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from baremetalrt.hosting.offering import offers_of
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.offer import MAX_OFFERS, FoundOffer, offer_of, read_messages, read_properties
from baremetalrt.swarm.client import SwarmClient

HASH = 64 * "a"
SHA256 = 64 * "b"
SAID: dict[str, str] = {"name": "tiny", "torrent": HASH, "bytes": "1000", "sha256": SHA256}


def read(
    said: Mapping[str, str | bytes | None],
    *,
    port: int | None = 6881,
    addresses: tuple[str, ...] = ("192.168.1.5",),
    at_home: bool = False,
) -> FoundOffer | None:
    raw = {k.encode(): v.encode() if isinstance(v, str) else v for k, v in said.items()}
    return read_properties(raw, port, addresses, at_home=at_home)


def test_what_is_said_is_read_again() -> None:
    offer = offer_of("tiny", HASH, 1000, 6881, sha256=SHA256, is_private=False)
    assert offer.properties() == SAID
    assert read(offer.properties()) == FoundOffer(offer, ("192.168.1.5:6881",))
    bare = read({k: v for k, v in SAID.items() if k != "sha256"})
    assert bare is not None and bare.offer.sha256 is None
    v1 = read(SAID | {"torrent": 40 * "a"})
    assert v1 is not None and v1.offer.torrent == 40 * "a"


@pytest.mark.parametrize(
    "said",
    [
        {"name": ""},
        {"name": "a\x1b[2J"},
        {"name": "a\nb"},
        {"name": "a\u202eb"},
        {"name": 97 * "x"},
        {"name": 10_000 * "x"},
        {"name": None},
        {"torrent": ""},
        {"torrent": None},
        {"torrent": 63 * "a"},
        {"torrent": 64 * "z"},
        {"torrent": HASH.upper()},
        {"torrent": f"{HASH}\n"},
        {"torrent": "magnet:?xt=urn:btih:" + 40 * "a"},
        {"bytes": None},
        {"bytes": ""},
        {"bytes": "0"},
        {"bytes": "-5"},
        {"bytes": "1e9"},
        {"bytes": "٣"},
        {"bytes": "01"},
        {"bytes": str(1 << 50)},
        {"bytes": 5000 * "9"},
        {"sha256": ""},
        {"sha256": SHA256.upper()},
        {"sha256": f"{SHA256}0"},
        {"name": b"\xff\x00"},
        {"bytes": b"\xff"},
    ],
)
def test_what_cannot_be_is_no_offer(said: dict[str, str | bytes | None]) -> None:
    assert read(SAID) is not None
    assert read({**SAID, **said}) is None


@pytest.mark.parametrize("port", [None, 0, 22, 80, 1023, 65536, 1 << 20, -1])
def test_services_of_the_system_are_not_called(port: int | None) -> None:
    assert read(SAID, port=port) is None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "8.8.8.8",
        "224.0.0.251",
        "255.255.255.255",
        "router",
        "",
        "::1",
        "1.2",
    ],
)
def test_only_the_local_network_is_near(address: str) -> None:
    """Neither this machine itself, nor anybody beyond, is called because somebody says so."""
    assert read(SAID, addresses=(address,)) is None
    found = read(SAID, addresses=(address, "10.0.0.7"))
    assert found is not None and found.peers == ("10.0.0.7:6881",)


def test_where_this_machine_is_the_network_nobody_else_is() -> None:
    found = read(SAID, addresses=("10.0.0.7", "127.0.0.1"), at_home=True)
    assert found is not None and found.peers == ("127.0.0.1:6881",)


def test_addresses_are_few() -> None:
    found = read(SAID, addresses=tuple(f"10.0.0.{i}" for i in range(1, 200)))
    assert found is not None and len(found.peers) == 4


def test_what_members_offer_is_bounded_alike() -> None:
    good = pb.Offer(name="tiny", torrent=HASH, num_bytes=5, port=7000, is_private=True)
    bad = [
        pb.Offer(name="a\x1b[2J", torrent=HASH, num_bytes=5, port=7000),
        pb.Offer(name="a", torrent="x", num_bytes=5, port=7000),
        pb.Offer(name="a", torrent=HASH, num_bytes=1 << 60, port=7000),
        pb.Offer(name="a", torrent=HASH, num_bytes=5, port=1 << 20),
    ]
    (found,) = read_messages([*bad, good], "10.0.0.7")
    assert found.peers == ("10.0.0.7:7000",) and found.offer.is_private
    assert found.offer.message() == good
    assert len(read_messages([good] * 1000, "10.0.0.7")) == MAX_OFFERS


def torrent(**changed: Any) -> Any:
    said: dict[str, Any] = {
        "is_complete": True,
        "needs_certificate": False,
        "is_private": False,
        "choice": None,
        "swarm": None,
        "is_unchecked": False,
        "name": "tiny",
        **changed,
    }
    names = ("needs_certificate", "is_private", "choice")
    about = {name: said[name] for name in names}
    record = {"name": said["name"], "swarm": said["swarm"], "sha256": SHA256}
    return SimpleNamespace(
        is_complete=said["is_complete"],
        metainfo=SimpleNamespace(infohash_v2=HASH, infohash_v1=None, num_bytes=9, **about),
        entry=SimpleNamespace(record=SimpleNamespace(is_unchecked=said["is_unchecked"], **record)),
    )


def offered(torrents: list[Any], swarm: str | None = None) -> list[tuple[int, bool]]:
    client = SimpleNamespace(torrents=tuple(torrents), listen_port=6881, secure_port=6882)
    found = offers_of(cast(SwarmClient, client), swarm)
    assert all(one.torrent == HASH and one.sha256 == SHA256 for one in found)
    return [(one.port, one.is_private) for one in found]


@pytest.mark.parametrize(
    "changed",
    [
        {"is_complete": False},
        {"needs_certificate": True, "swarm": "home"},
        {"is_private": True},
        {"choice": "a/b.gguf"},
        {"is_unchecked": True},
    ],
)
def test_only_what_everybody_may_have_whole_is_offered_to_everybody(changed: Any) -> None:
    assert offered([torrent()]) == [(6881, False)]
    assert offered([torrent(**changed)]) == []


def test_members_are_told_of_what_is_theirs() -> None:
    """And of no other swarm."""
    own = torrent(needs_certificate=True, swarm="home")
    other = torrent(needs_certificate=True, swarm="work")
    assert offered([own, other, torrent()], "home") == [(6882, True), (6881, False)]


def test_what_is_offered_has_an_end_and_can_be_shown() -> None:
    assert len(offered([torrent(name=str(i)) for i in range(300)])) == MAX_OFFERS
    long = offer_of("\x1b" + 300 * "x", HASH, 9, 6881, sha256=None, is_private=False)
    assert read(long.properties()) is not None
    assert offers_of(None) == []
