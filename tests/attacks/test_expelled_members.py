"""A member that was put out, with its certificate: against hosts, callers and torrents."""

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from baremetalrt.hosting.members import put_out
from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.membership.authority import (
    Membership,
    find_membership,
    load_authority,
    member_key,
    renew,
    utc_now,
)
from baremetalrt.membership.certificates import issue
from baremetalrt.membership.identity import Identity
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.caller import NoAnswerError
from baremetalrt.peers.tls import secure_channel
from baremetalrt.peers.wire import SERVICE
from baremetalrt.weights.store import default_model
from commands import bmrt
from peers_kit import SWARM, PeerProcess, at_home, founder, member
from raw_calls import attach, described, identity, opening
from swarm_kit import SeedProcess, join, make_home, pull, run_pull, write_model


class Machines:
    """Two hosts of one swarm, the first of its creator; a member that stays, and one that is put out."""

    def __init__(self, folder: Path) -> None:
        self.creator = founder(folder / "creator")
        self.stays = member(folder / "stays", self.creator)
        self.goes = member(folder / "goes", self.creator)
        model = default_model()
        assert model is not None
        self.hosts = [
            PeerProcess(model.path, "10:20", home).wait_until_it_listens()
            for home in (self.creator, member(folder / "host", self.creator))
        ]
        self.model = asyncio.run(described(self.hosts[0], identity(self.goes))).spans[0].model


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("machines"))
    with machines.hosts[0], machines.hosts[1]:
        yield machines


def swarm_of(home: Path) -> Membership:
    with at_home(home):
        return find_membership(SWARM)


async def look(home: Path, *hosts: PeerProcess) -> list[str]:
    """As any command of that machine looks around before it computes."""
    with at_home(home):
        async with Neighbours(swarm_of(home), [one.address for one in hosts]) as neighbours:
            return [one.id for one in await neighbours.look()]


@contextmanager
def expelled(machines: Machines, *told: PeerProcess) -> Iterator[Identity]:
    """A member of its own that is put out, so that the order of tests does not matter."""
    home = member(machines.goes.parent / f"goes-{time.monotonic_ns()}", machines.creator)
    who = identity(home)
    with at_home(machines.creator):
        done = asyncio.run(put_out(SWARM, who.id, [one.address for one in told]))
    assert len(done.told) == len(told)
    yield who


async def code_of(host: PeerProcess, who: Identity) -> str:
    try:
        await described(host, who)
    except NoAnswerError as error:
        return str(error)
    return "answered"


def test_a_text_of_who_is_put_out_ends_and_no_other_begins(machines: Machines) -> None:
    """While it waits for its next token; whoever stays notices nothing."""
    host = machines.hosts[0]
    who = identity(machines.goes)

    async def attack() -> tuple[Any, str, str]:
        async with (
            secure_channel(who, host.address, f"{host.id}.peer") as channel,
            secure_channel(identity(machines.stays), host.address, f"{host.id}.peer") as honest,
        ):
            theirs, ours = attach(channel), attach(honest)
            for call in (theirs, ours):
                await call.write(opening(machines.model, capacity=256))
                assert (await call.read()).done.is_complete
            with at_home(machines.creator):
                await put_out(SWARM, who.id, [host.address])
            ended = await theirs.code()
            again = attach(channel)
            # It is refused before it has said anything.
            refused = await again.details()
            grown = pb.Command(number=2, grow=pb.Grow(capacity=300))
            await ours.write(grown)
            assert (await ours.read()).number == 2
            return ended, refused, await code_of(host, who)

    ended, refused, asked = asyncio.run(attack())
    assert ended is grpc.StatusCode.PERMISSION_DENIED
    assert refused == "peer.expelled" and "peer.expelled" in asked


def test_the_list_travels_with_questions_and_only_the_authoritys(machines: Machines) -> None:
    """A host that nobody told hears it from a member that asks; lists of a member's own do nothing."""
    first, second = machines.hosts
    with expelled(machines, first) as who:
        assert asyncio.run(code_of(second, who)) == "answered"
        assert set(asyncio.run(look(machines.stays, first, second))) == {first.id, second.id}
        # Only now has the member that stays got it from the first, and the second from the member.
        asyncio.run(look(machines.stays, second))
        assert "peer.expelled" in asyncio.run(code_of(second, who))

    async def forge() -> str:
        mine = identity(machines.stays)
        newest = mine.expelled.current()
        async with secure_channel(mine, second.address, f"{second.id}.peer") as channel:
            call: Any = channel.unary_unary(
                f"{SERVICE}Describe",
                request_serializer=pb.DescribeRequest.SerializeToString,
                response_deserializer=pb.Description.FromString,
            )
            forged = bytearray(newest.signed)
            forged[60] ^= 1
            try:
                await call(pb.DescribeRequest(expulsion_list=bytes(forged)))
            except grpc.aio.AioRpcError as error:
                return str(error.details())
        return "accepted"

    assert asyncio.run(forge()) == "expulsions.signature"
    assert asyncio.run(look(machines.stays, second)) == [second.id]


def test_nobody_computes_at_who_was_put_out(machines: Machines, tmp_path: Path) -> None:
    """Its host still answers; members that know do not call it, and it says of itself what it is."""
    model = default_model()
    assert model is not None
    home = member(tmp_path / "host", machines.creator)
    with PeerProcess(model.path, "10:20", home).wait_until_it_listens() as host:
        assert asyncio.run(look(machines.stays, host)) == [host.id]
        with at_home(machines.creator):
            asyncio.run(put_out(SWARM, host.id, [machines.hosts[0].address]))
        asyncio.run(look(machines.stays, machines.hosts[0]))
        assert asyncio.run(look(machines.stays, host)) == []
    # From the member that has asked it, it knows.
    done = bmrt("run", "--via", machines.hosts[0].address, "Hello", home=home)
    assert done.returncode == 2 and "put out of the swarm" in done.stderr


def test_certificates_that_end_soon_are_renewed_by_asking(machines: Machines) -> None:
    """Of a member whose certificate has ten days left, by the creator's host, which nobody told of it."""
    home = member(machines.goes.parent / "short", machines.creator)
    before = swarm_of(home)
    with at_home(machines.creator):
        authority = load_authority(find_membership(SWARM))
    key = member_key(before)
    old = renew(before, issue(authority, key.public_key(), utc_now() - timedelta(days=20)))
    assert old.is_due(utc_now())
    asyncio.run(look(home, machines.hosts[1]))
    assert swarm_of(home) == old  # not the creator
    asyncio.run(look(home, machines.hosts[0]))
    after = swarm_of(home)
    assert after.expires_at - utc_now() > timedelta(days=29)
    with at_home(machines.creator):
        listed = json.loads(bmrt("swarm", "members", SWARM, "--json", home=machines.creator).stdout)
    assert after.id in [one["id"] for one in listed]


def test_who_was_put_out_gets_no_torrents(machines: Machines, tmp_path: Path) -> None:
    """Those that were there before included, from a seed that goes on; who stays still does."""
    path = write_model(tmp_path)
    creator, first = machines.creator, machines.hosts[0]
    goes = member(tmp_path / "goes", creator)
    stays = member(tmp_path / "stays", creator)
    knows, comes = member(tmp_path / "knows", creator), make_home(tmp_path / "comes")
    for home in (goes, stays):
        asyncio.run(look(home, first))
    with SeedProcess(path, "--swarm", SWARM, home=creator) as seed:
        pull(seed.magnet, "--swarm", SWARM, home=stays, peers=[seed.peer])
        with at_home(creator):
            asyncio.run(put_out(SWARM, identity(goes).id, [first.address]))
        # The seed takes over the new certificates by itself; members get theirs from the creator.
        asyncio.run(look(knows, first))
        join(creator, comes)
        for home in (knows, comes):
            pull(seed.magnet, "--swarm", SWARM, home=home, peers=[seed.peer])
        with pytest.raises(subprocess.TimeoutExpired) as stopped:
            run_pull(seed.magnet, "--swarm", SWARM, home=goes, peers=[seed.peer], timeout_s=6)
        assert b"this swarm's authority" in (stopped.value.stderr or b"")
        assert not list((goes / "torrents").glob("*/data/*"))
