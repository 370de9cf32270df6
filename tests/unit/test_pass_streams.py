"""Which addresses a host calls for a member, and how many connections it keeps."""

import asyncio
from pathlib import Path

import pytest

from baremetalrt.hosting.neighbours import literal_addresses
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.pass_streams import AddressError, PassStreams, target_of
from peers_kit import founder
from raw_calls import identity

REFUSED = (
    "unix:/run/docker.sock",
    "unix-abstract:bus",
    "dns://10.0.0.1/peer:7470",
    "dns:///peer:7470",
    "vsock:1:7470",
    "peer.example:7470",
    "localhost:7470",
    "127.0.0.1:7470",
    "[::1]:7470",
    "[::ffff:127.0.0.1]:7470",
    "0.0.0.0:7470",
    "[::]:7470",
    "224.0.0.1:7470",
    "169.254.169.254:8080",
    "[fe80::1%eth0]:7470",
    "192.168.1.5:22",
    "192.168.1.5:0",
    "192.168.1.5:65536",
    "192.168.1.5:+7470",
    "192.168.1.5",
    "192.168.1.5:7470,10.0.0.1:7470",
    "2130706433:7470",
    "",
)


@pytest.mark.parametrize("address", REFUSED)
def test_a_host_does_not_connect_wherever_it_is_told(address: str) -> None:
    """No names, no files, no services of its own machine, no addresses that no peer has."""
    with pytest.raises(AddressError):
        target_of(address, from_this_machine=False)


def test_addresses_of_peers_are_called_as_they_are() -> None:
    """Those of this machine for somebody on it."""
    for address, target in (
        ("192.168.1.5:7470", "ipv4:192.168.1.5:7470"),
        ("[fd00::5]:7470", "ipv6:[fd00::5]:7470"),
    ):
        assert target_of(address, from_this_machine=False) == target
    assert target_of("127.0.0.1:7470", from_this_machine=True) == "ipv4:127.0.0.1:7470"
    assert target_of("[::1]:7470", from_this_machine=True) == "ipv6:[::1]:7470"


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("localhost:7470", "127.0.0.1:7470"),
        ("192.168.1.5:7470", "192.168.1.5:7470"),
        ("[fd00::5]:7470", "[fd00::5]:7470"),
    ],
)
def test_callers_look_names_up_themselves(address: str, literal: str) -> None:
    """What hosts are told is numbers, whatever the user has typed."""
    assert literal in asyncio.run(literal_addresses(address))


def test_what_is_no_address_is_nobody() -> None:
    for address in ("", "peer", "peer:port", "nowhere.invalid:7470"):
        assert asyncio.run(literal_addresses(address)) == []


def test_connections_do_not_pile_up(tmp_path: Path) -> None:
    """However many addresses are named: those in use stay, and few of the others."""
    who = identity(founder(tmp_path / "host"))

    async def many() -> list[int]:
        streams = PassStreams(who)
        held = [
            streams.open(pb.Peer(id="0" * 40, address=f"10.0.0.{i}:7470"), from_this_machine=False)
            for i in range(100)
        ]
        counts = [streams.num_channels]
        for one in held[:99]:
            one.close()
            one.close()
        counts.append(streams.num_channels)
        held[99].close()
        await streams.close()
        return counts

    assert asyncio.run(many()) == [100, 17]
