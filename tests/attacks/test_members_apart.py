"""A member with a certificate, against the others: what they say, what they hold, and their turn."""

import asyncio
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from baremetalrt.membership.identity import Identity
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.silent_connections import MAX_SILENT_EACH
from baremetalrt.peers.tls import secure_channel
from baremetalrt.peers.wire import SCOPE_BYTES, SERVICE
from baremetalrt.weights.store import default_model
from peers_kit import PeerProcess, founder, member
from raw_calls import ROWS, WIDTH, attach, described, identity, opening

TEXT = [7 + i % 50 for i in range(200)]
# Of 4,096 cells, room for one text of 1,024 is left for others.
LIMIT = 3072


class Attacked:
    """A host of blocks 10:20, and two members."""

    def __init__(self, folder: Path) -> None:
        home = founder(folder / "caller")
        model = default_model()
        assert model is not None
        self.peer = PeerProcess(model.path, "10:20", member(folder / "peer", home))
        self.peer.wait_until_it_listens()
        self.victim = identity(home)
        self.attacker = identity(member(folder / "attacker", home))
        self.model = asyncio.run(described(self.peer, self.victim)).spans[0].model

    @asynccontextmanager
    async def channel(self, who: Identity) -> AsyncIterator[grpc.aio.Channel]:
        async with secure_channel(who, self.peer.address, f"{self.peer.id}.peer") as channel:
            yield channel

    async def ask(self, call: Any, command: pb.Command) -> pb.Report:
        await call.write(command)
        report: pb.Report = await call.read()
        return report

    async def num_texts(self) -> int:
        return (await described(self.peer, self.victim)).spans[0].num_texts

    async def quiet(self) -> None:
        """Returns once the texts of before have ended."""
        while await self.num_texts():
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    attacked = Attacked(tmp_path_factory.mktemp("apart"))
    with attacked.peer:
        yield attacked


def close() -> pb.Command:
    return pb.Command(number=9, close=pb.Close(keep=True))


async def known(attacked: Attacked, who: Identity, text: list[int], **changes: Any) -> int:
    """How much of a text the host says that it has; the text is left as it was."""
    async with attacked.channel(who) as channel:
        call = attach(channel)
        report = await attacked.ask(
            call, opening(attacked.model, capacity=256, tokens=text, **changes)
        )
        await attacked.ask(call, close())
        return int(report.done.length)


def test_nobody_is_told_what_another_has_said(attacked: Attacked) -> None:
    """Neither while it is said nor afterwards; who said it finds it again, in its own scope."""
    text, scope = [*TEXT, 1], bytes(range(SCOPE_BYTES))

    async def attack() -> dict[str, int]:
        found = {}
        async with attacked.channel(attacked.victim) as channel:
            call = attach(channel)
            await attacked.ask(call, opening(attacked.model, capacity=256))
            step = pb.Step(position=0, tokens=TEXT, rows=ROWS * len(TEXT))
            computed = await attacked.ask(call, pb.Command(number=2, step=step))
            assert computed.result.num_tokens == len(TEXT)
            found["while it runs"] = await known(attacked, attacked.attacker, text)
            await attacked.ask(call, close())
        found["afterwards"] = await known(attacked, attacked.attacker, text)
        found["for another client of it"] = await known(
            attacked, attacked.victim, text, scope=scope
        )
        found["for itself"] = await known(attacked, attacked.victim, text)
        return found

    assert asyncio.run(attack()) == {
        "while it runs": 0,
        "afterwards": 0,
        "for another client of it": 0,
        "for itself": len(TEXT),
    }


def test_rows_of_one_member_are_built_upon_by_nobody_else(attacked: Attacked) -> None:
    """False rows under the tokens of an honest text: the honest one is computed as if alone."""
    text = [900 + i % 90 for i in range(100)]
    # In the middle of a model rows alone are computed with: the same text, that nobody has touched.
    untouched = [token + 100 for token in text]
    false = struct.pack(f"<{WIDTH}f", *(i % 7 - 3 for i in range(WIDTH)))

    async def last_row(who: Identity, text: list[int], rows: bytes) -> bytes:
        async with attacked.channel(who) as channel:
            call = attach(channel)
            report = await attacked.ask(
                call, opening(attacked.model, capacity=256, tokens=[*text, 1])
            )
            start = report.done.length
            step = pb.Step(position=start, tokens=text[start:], rows=rows * (len(text) - start))
            if start < len(text):
                await attacked.ask(call, pb.Command(number=2, step=step))
            step = pb.Step(position=len(text), tokens=[5], rows=ROWS)
            report = await attacked.ask(call, pb.Command(number=3, step=step))
            await attacked.ask(call, close())
            return bytes(report.result.rows)

    built_on_false = asyncio.run(last_row(attacked.attacker, text, false))
    honest = asyncio.run(last_row(attacked.victim, text, ROWS))
    expected = asyncio.run(last_row(attacked.victim, untouched, ROWS))
    assert honest == expected != built_on_false


async def opened(attacked: Attacked, calls: list[Any], *commands: pb.Command) -> list[str]:
    """What is answered to each command, each on a stream of its own that stays open."""
    answers = []
    for call, command in zip(calls, commands, strict=True):
        report = await attacked.ask(call, command)
        answers.append(report.fault.code or "done")
    return answers


def test_a_member_holds_no_more_cells_than_it_may(attacked: Attacked) -> None:
    """Counted as they are taken: in whole quanta, whatever is said to be wanted, and all at once."""

    def asked(capacity: int, **changes: Any) -> pb.Command:
        return opening(attacked.model, capacity=capacity, **changes)

    async def attack() -> None:
        await attacked.quiet()
        async with attacked.channel(attacked.attacker) as channel:
            long = await opened(attacked, [attach(channel)], asked(1, tokens=[1] * 1024))
            assert long == ["step.capacity"]
        async with attacked.channel(attacked.attacker) as channel:
            calls = [attach(channel) for _ in range(14)]
            small = await opened(attacked, calls, *[asked(1) for _ in calls])
            assert small == ["done"] * (LIMIT // 256) + ["cache.full"] * 2
        await attacked.quiet()
        async with attacked.channel(attacked.attacker) as channel:
            calls = [attach(channel) for _ in range(3)]
            assert await opened(attacked, calls, *[asked(1024) for _ in calls]) == ["done"] * 3
            shrunk = pb.Command(number=2, grow=pb.Grow(capacity=1))
            assert await opened(attacked, calls, *[shrunk for _ in calls]) == ["done"] * 3
            assert await opened(attacked, [attach(channel)], asked(1)) == ["cache.full"]
            # The room that is left is another's.
            async with attacked.channel(attacked.victim) as other:
                assert await opened(attacked, [attach(other)], asked(1024)) == ["done"]
        await attacked.quiet()

    asyncio.run(attack())


def test_texts_that_are_opened_at_once_are_counted_one_by_one(attacked: Attacked) -> None:
    """Behind a step that takes a while, so that all of them wait for the same moment."""

    async def attack() -> list[str]:
        await attacked.quiet()
        async with attacked.channel(attacked.attacker) as channel:
            busy, *calls = (attach(channel) for _ in range(9))
            await attacked.ask(busy, opening(attacked.model, capacity=512))
            step = pb.Step(position=0, tokens=[1] * 512, rows=ROWS * 512)
            await busy.write(pb.Command(number=2, step=step))
            reports = await asyncio.gather(
                *(attacked.ask(c, opening(attacked.model, capacity=1024)) for c in calls)
            )
            return sorted(report.fault.code or "done" for report in reports)

    assert asyncio.run(attack()) == ["cache.full"] * 6 + ["done"] * 2


def test_texts_that_were_not_opened_are_forgotten(attacked: Attacked) -> None:
    """However often one stream tries, names included."""

    async def attack() -> int:
        await attacked.quiet()
        async with attacked.channel(attacked.attacker) as channel:
            calls = [attach(channel) for _ in range(3)]
            await opened(attacked, calls, *[opening(attacked.model, capacity=1024) for _ in calls])
            call, one = attach(channel), opening(attacked.model, capacity=1024)
            for _ in range(50):
                # Were it still known, its name would be taken.
                report = await attacked.ask(call, one)
                assert report.fault.code == "cache.full"
            return await attacked.num_texts()

    assert asyncio.run(attack()) == 3


def test_a_message_is_measured_before_it_is_read(attacked: Attacked) -> None:
    """A text of millions of tokens ends its stream, and costs nobody anything."""

    async def attack() -> pb.Report:
        async with attacked.channel(attacked.attacker) as channel:
            huge = pb.Command(
                number=1, open=pb.Open(text=secrets.token_bytes(16), tokens=[1] * 5_000_000)
            )
            return await attacked.ask(attach(channel), huge)

    assert asyncio.run(attack()).fault.code == "message.size"
    asyncio.run(attacked.quiet())


def test_idle_links_lock_nobody_out(attacked: Attacked) -> None:
    """One member has so many at once; others have theirs, and a text has one."""

    def link(channel: grpc.aio.Channel) -> Any:
        return channel.stream_unary(
            f"{SERVICE}Pass",
            request_serializer=pb.Passed.SerializeToString,
            response_deserializer=pb.Received.FromString,
        )(timeout=30)

    async def attack() -> None:
        async with attacked.channel(attacked.attacker) as channel:
            idle = [link(channel) for _ in range(100)]
            ended = asyncio.as_completed([one.code() for one in idle])
            codes = [await next(ended) for _ in range(36)]
            assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 36
            async with attacked.channel(attacked.victim) as other:
                call, command = attach(other), opening(attacked.model, capacity=256)
                await attacked.ask(call, command)
                first, second = link(other), link(other)
                step = pb.Step(position=0, tokens=[1], rows=ROWS)
                await first.write(pb.Passed(text=command.open.text, step=step))
                assert (await call.read()).result.num_tokens == 1
                step = pb.Step(position=1, tokens=[1], rows=ROWS)
                await second.write(pb.Passed(text=command.open.text, step=step))
                assert (await call.read()).result.position == 1
                # A later link takes the place of an earlier one, which so ends.
                assert await first == pb.Received()
                call.cancel()
                # And with its text ends the last.
                assert await second == pb.Received()
            for one in idle:
                one.cancel()

    asyncio.run(attack())


def test_silent_strangers_do_not_fill_the_port(attacked: Attacked) -> None:
    """Those of one address beyond some are hung up on; members are answered all the while."""
    host, _, port = attacked.peer.address.rpartition(":")

    async def attack() -> int:
        silent = [socket.create_connection((host, int(port))) for _ in range(300)]
        ended = 0
        try:
            while ended < 300 - MAX_SILENT_EACH:
                assert await attacked.num_texts() == 0
                ended = sum(_is_over(one) for one in silent)
                await asyncio.sleep(0.2)
        finally:
            for one in silent:
                one.close()
        return ended

    # The others have the time for a handshake, which is much longer.
    assert asyncio.run(asyncio.wait_for(attack(), 60)) == 300 - MAX_SILENT_EACH


def _is_over(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.slow
def test_a_stranger_who_says_nothing_is_hung_up_on(attacked: Attacked) -> None:
    """Long before the two minutes that a handshake may take elsewhere."""
    host, _, port = attacked.peer.address.rpartition(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.settimeout(60)
        while silent.recv(4096):
            pass
