"""What a user is told where a clock is wrong, or a stranger answers: as the commands say it."""

import asyncio
from pathlib import Path

import pytest

from baremetalrt.membership.authority import (
    find_membership,
    utc_now,
)
from baremetalrt.membership.identity import identity_of
from baremetalrt.peers.host import Host
from baremetalrt.peers.hosted import HostProfile
from commands import bmrt
from peers_kit import FOREIGN, SWARM, at_home, founder, made_in, member
from swarm_kit import LOOPBACK


async def asked(host_home: Path, caller: Path) -> str:
    """What `bmrt peers` says of a host with that home."""
    with at_home(host_home):
        identity = identity_of(find_membership(SWARM))
    host = Host(identity, HostProfile("1", "library", 0, None))
    await host.listen(f"{LOOPBACK}:0")
    async with host:
        address = f"{LOOPBACK}:{host.port}"
        done = await asyncio.to_thread(bmrt, "peers", "--via", address, home=caller)
    assert not FOREIGN.search(done.stderr), done.stderr
    return done.stderr


def test_the_clock_of_this_machine_is_named(tmp_path: Path) -> None:
    """A certificate of the future: nobody is asked anything."""
    creator = founder(tmp_path / "creator")
    caller = made_in(3, creator, member(tmp_path / "caller", creator))
    done = bmrt("peers", "--via", f"{LOOPBACK}:1", home=caller)
    assert done.returncode == 2
    assert f"and the clock of this machine says {utc_now():%Y-%m-%d}" in done.stderr
    assert "hint: set the clock of this machine" in done.stderr


@pytest.mark.parametrize(("days", "said"), [(3, "is not valid yet"), (-400, "has expired")])
def test_a_certificate_of_another_time_is_a_matter_of_clocks(
    days: float, said: str, tmp_path: Path
) -> None:
    """Of a peer; and of nothing that a library says."""
    creator = founder(tmp_path / "creator")
    host = made_in(days, creator, member(tmp_path / "host", creator))
    told = asyncio.run(asked(host, creator))
    assert f"its certificate {said} by the clock of this machine" in told


def test_a_stranger_is_one(tmp_path: Path) -> None:
    """Who answers there is in a swarm of the same name."""
    told = asyncio.run(asked(founder(tmp_path / "stranger"), founder(tmp_path / "caller")))
    assert "does not answer: it is no member of this swarm" in told
