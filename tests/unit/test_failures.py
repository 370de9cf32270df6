"""Why a peer does not answer is said in words of ours: over real TLS, with wrong certificates."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.core.network_reasons import describe_failure
from baremetalrt.membership.authority import find_membership, utc_now
from baremetalrt.membership.identity import Identity, identity_of
from baremetalrt.peers.caller import Channels, NoAnswerError
from baremetalrt.peers.host import Host
from baremetalrt.peers.hosted import HostProfile
from baremetalrt.peers.wire import SERVICE
from peers_kit import FOREIGN, SWARM, at_home, founder, made_in, member
from swarm_kit import LOOPBACK, free_ports

NOW = utc_now()


@pytest.fixture
def swarm(tmp_path: Path) -> Path:
    """The home of a creator."""
    return founder(tmp_path / "creator")


def one(creator: Path, made_at_days: float = 0.0) -> Identity:
    """A member whose certificate was made so many days from now: as a clock that is wrong sees it."""
    home = member(creator.with_name(f"member-{len(list(creator.parent.iterdir()))}"), creator)
    made_in(made_at_days, creator, home)
    with at_home(home):
        return identity_of(find_membership(SWARM))


@asynccontextmanager
async def hosting(who: Identity) -> AsyncIterator[str]:
    host = Host(who, HostProfile("1", "library", 0, None))
    await host.listen(f"{LOOPBACK}:0")
    async with host:
        yield f"{LOOPBACK}:{host.port}"


async def why(caller: Identity, address: str, timeout_s: float = 60.0) -> str:
    with pytest.raises(NoAnswerError) as caught:
        await Channels(caller).describe(address, timeout_s=timeout_s)
    assert not FOREIGN.search(str(caught.value)), str(caught.value)
    return str(caught.value)


async def why_of(host: Identity, caller: Identity) -> str:
    async with hosting(host) as address:
        return await why(caller, address)


def test_a_wrong_clock_is_said_to_be_one(swarm: Path) -> None:
    """Of the peer, whose certificate is seen; of this machine, which is only hung up on."""
    clock = f"by the clock of this machine, {NOW:%Y-%m-%d}"
    not_yet = asyncio.run(why_of(one(swarm, 3), one(swarm)))
    assert "its certificate is not valid yet" in not_yet and clock in not_yet
    expired = asyncio.run(why_of(one(swarm, -700), one(swarm)))
    assert "its certificate has expired" in expired and clock in expired
    for mine in (one(swarm, 3), one(swarm, -700)):
        assert "by its clock the certificate of this machine is not valid" in asyncio.run(
            why_of(one(swarm), mine)
        )


def test_strangers_are_said_to_be_strangers(swarm: Path, tmp_path: Path) -> None:
    """On both sides."""
    other = one(founder(tmp_path / "elsewhere" / "creator"))
    assert asyncio.run(why_of(other, one(swarm))) == "it is no member of this swarm"
    # Which of the two sides notices first is TLS's affair.
    assert "no member of this swarm" in asyncio.run(why_of(one(swarm), other))


def test_whoever_is_not_there_is_said_not_to_be(swarm: Path) -> None:
    """Nobody listens, nobody speaks, somebody hangs up, somebody else answers."""

    async def play() -> None:
        (port,) = free_ports(1)
        assert await why(one(swarm), f"{LOOPBACK}:{port}") == "nobody listens there"
        async with await asyncio.start_server(lambda r, w: None, LOOPBACK, 0) as silent:
            address = f"{LOOPBACK}:{silent.sockets[0].getsockname()[1]}"
            assert await why(one(swarm), address, timeout_s=0.5) == "no answer in time"
        async with await asyncio.start_server(lambda r, w: w.close(), LOOPBACK, 0) as rude:
            address = f"{LOOPBACK}:{rude.sockets[0].getsockname()[1]}"
            assert "something else answers there" in await why(one(swarm), address)

    asyncio.run(play())


def test_a_host_that_answers_only_some_says_so(swarm: Path) -> None:
    """With the code, which whoever is asked for help may want to know."""

    async def play() -> str:
        host = Host(one(swarm), HostProfile("1", "library", 0, None), allowed=frozenset({40 * "0"}))
        await host.listen(f"{LOOPBACK}:0")
        async with host:
            return await why(one(swarm), f"{LOOPBACK}:{host.port}")

    assert asyncio.run(play()) == "it does not answer this machine (peer.not-allowed)"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "nobody has that name"),
        (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure"),
            "the name cannot be looked up now",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "nobody listens there"),
        (TimeoutError(), "no answer in time"),
        (EOFError(), "it hung up"),
        (
            OSError(99, "Cannot assign requested address"),
            "no interface of this machine has that address",
        ),
    ],
)
def test_what_the_system_says_is_put_into_words(error: BaseException, words: str) -> None:
    """No numbers of errors, and no names of constants."""
    assert describe_failure(error) == words


def test_a_certificate_of_the_future_is_a_clock_of_the_past(swarm: Path) -> None:
    """Said before anybody is called, with what the clock says."""
    with at_home(swarm):
        membership = find_membership(SWARM)
    membership.require_valid(utc_now())
    with pytest.raises(
        UsageError, match="the clock of this machine says 1970-01-01 00:00 UTC"
    ) as past:
        membership.require_valid(NOW.replace(year=1970, month=1, day=1, hour=0, minute=0))
    assert past.value.code == "swarm.clock"
    with pytest.raises(UsageError, match="expired") as future:
        membership.require_valid(NOW + timedelta(days=3000))
    assert "set the clock of this machine" in (future.value.hint or "")


@pytest.mark.slow
def test_a_host_that_comes_back_is_called_soon_on_an_old_connection(swarm: Path) -> None:
    """However long it was away: by itself, gRPC would let two minutes pass between its attempts."""

    async def play() -> None:
        (port,) = free_ports(1)
        caller, callee = one(swarm), one(swarm)
        channel = Channels(caller).to(f"{LOOPBACK}:{port}", callee.id)
        call = channel.unary_unary(f"{SERVICE}Describe")
        for _ in range(50):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(b"", timeout=60)
            await asyncio.sleep(1)
        host = Host(callee, HostProfile("1", "library", 0, None))
        await host.listen(f"{LOOPBACK}:{port}")
        async with host, asyncio.timeout(15):
            while True:
                try:
                    await call(b"", timeout=60)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)
        await channel.close()

    asyncio.run(play())
