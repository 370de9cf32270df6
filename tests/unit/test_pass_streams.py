"""Which addresses a host calls for a member, and how many connections it keeps."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.hosting.neighbours import literal_addresses
from baremetalrt.membership.authority import find_membership, renew_own, utc_now
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.caller import Channels
from baremetalrt.peers.pass_streams import PassStreams
from baremetalrt.peers.reach import (
    FORGOTTEN_AFTER_S,
    MAX_UNPROVEN,
    AddressError,
    ReachLimit,
    read_ip,
    target_of,
)
from peers_kit import SWARM, at_home, founder
from raw_calls import identity

HERE, AT_HOME, ABROAD = (ip_address(one) for one in ("127.0.0.1", "192.168.1.9", "9.9.9.9"))
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
        target_of(address, named_from=AT_HOME)


def test_addresses_of_peers_are_called_as_they_are() -> None:
    """Those of this machine for somebody on it."""
    for address, target in (
        ("192.168.1.5:7470", "ipv4:192.168.1.5:7470"),
        ("[fd00::5]:7470", "ipv6:[fd00::5]:7470"),
    ):
        assert target_of(address, named_from=AT_HOME) == target
    assert target_of("127.0.0.1:7470", named_from=HERE) == "ipv4:127.0.0.1:7470"
    assert target_of("[::1]:7470", named_from=HERE) == "ipv6:[::1]:7470"


def test_nobody_has_a_nearer_network_called() -> None:
    """A member from far away names no machines of this home, and nobody whose place is unknown does."""
    for address in ("192.168.1.5:7470", "100.64.0.7:7470", "[fd00::5]:7470", "10.1.2.3:7470"):
        for where in (ABROAD, None):
            with pytest.raises(AddressError):
                target_of(address, named_from=where)
    for where in (ABROAD, AT_HOME, HERE, None):
        assert target_of("8.8.8.8:7470", named_from=where) == "ipv4:8.8.8.8:7470"
    assert read_ip("[::ffff:192.168.1.9]:5") == AT_HOME
    assert read_ip("peer:5") is None and read_ip("[fe80::1%eth0]:5") is None


def test_a_host_is_no_scanner_of_ports() -> None:
    """So many addresses in vain for each member, at once or one by one; others are not held back."""
    limit = ReachLimit()

    def targets(number: int) -> list[tuple[str, str]]:
        return [(f"ipv4:10.0.0.1:{2000 + i}", "0" * 40) for i in range(number)]

    *first, last = targets(MAX_UNPROVEN + 1)
    for number, one in enumerate(first):
        limit.call("attacker", one, number)
        limit.call("attacker", one, number)
    with pytest.raises(AddressError):
        limit.call("attacker", last, 20.0)
    limit.call("other", last, 20.0)
    # Who has shown to be there may be called by everybody, whatever becomes of it.
    limit.reached(last)
    limit.call("attacker", last, 21.0)
    # What is there after all counts no more, and the others for some minutes only.
    limit.reached(first[0])
    unknown = ("ipv4:10.0.0.2:7470", "0" * 40)
    limit.call("attacker", unknown, 22.0)
    with pytest.raises(AddressError):
        limit.call("attacker", ("ipv4:10.0.0.3:7470", "0" * 40), 23.0)
    limit.call("attacker", ("ipv4:10.0.0.3:7470", "0" * 40), 1.0 + FORGOTTEN_AFTER_S)


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
        with pytest.raises(UsageError) as caught:
            asyncio.run(literal_addresses(address))
        assert "Errno" not in caught.value.message


def test_connections_do_not_pile_up(tmp_path: Path) -> None:
    """However many addresses are named: those in use stay, and few of the others."""
    who = identity(founder(tmp_path / "host"))

    async def many() -> list[int]:
        streams = PassStreams(who)
        held = [
            streams.open(
                pb.Peer(id="0" * 40, address=f"10.0.0.{i}:7470"), f"caller {i}", named_from=AT_HOME
            )
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


def test_a_renewed_certificate_is_shown_from_then_on(tmp_path: Path) -> None:
    """By connections to the next stage and to hosts; those that are in use go on."""
    home = founder(tmp_path / "host")
    who = identity(home)

    async def renew() -> None:
        streams, channels = PassStreams(who), Channels(who)
        peer = pb.Peer(id="0" * 40, address="10.0.0.1:7470")
        held = streams.open(peer, "caller", named_from=AT_HOME)
        before = channels.to(peer.address, peer.id)
        assert channels.to(peer.address, peer.id) is before
        with at_home(home):
            renew_own(find_membership(SWARM), utc_now())
        assert channels.to(peer.address, peer.id) is not before
        again = streams.open(peer, "caller", named_from=AT_HOME)
        assert streams.num_channels == 1
        for one in (held, again):
            one.close()
        await streams.close()
        await channels.close()

    asyncio.run(renew())


def test_connections_of_a_caller_do_not_pile_up(tmp_path: Path) -> None:
    """As addresses come and go for weeks."""
    who = identity(founder(tmp_path / "caller"))

    async def many() -> bool:
        channels = Channels(who)
        first = channels.to("10.0.0.1:7470", "0" * 40)
        for i in range(100):
            channels.to(f"10.0.1.{i}:7470", "0" * 40)
        is_gone = channels.to("10.0.0.1:7470", "0" * 40) is not first
        await channels.close()
        return is_gone

    assert asyncio.run(many())
