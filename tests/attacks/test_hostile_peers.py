"""What a member of the swarm can send to a host, or answer to a caller, that no honest peer would."""

import asyncio
import secrets
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from baremetalrt.membership.authority import find_membership, load_authority, utc_now
from baremetalrt.membership.certificates import certificate_pem, issue, key_pem, new_key
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.bounded_queue import Allowance, BoundedQueue
from baremetalrt.peers.caller import NoAnswerError
from baremetalrt.peers.tls import secure_channel, server_credentials
from baremetalrt.peers.wire import SERVICE, StepError, read_rows, read_step
from baremetalrt.weights.store import default_model
from peers_kit import SWARM, PeerProcess, at_home, founder, member
from raw_calls import ROWS, WIDTH, attach, described, identity, opening, say


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PeerProcess, Path]]:
    folder = tmp_path_factory.mktemp("attacked")
    caller = founder(folder / "caller")
    model = default_model()
    assert model is not None
    with PeerProcess(model.path, "10:20", member(folder / "peer", caller)) as peer:
        yield peer.wait_until_it_listens(), caller


STEPS: dict[str, tuple[pb.Step, str]] = {
    "ahead": (pb.Step(position=9, tokens=[1], rows=ROWS), "step.position"),
    "narrow": (pb.Step(position=0, tokens=[1], rows=ROWS[:-4]), "rows.shape"),
    "none": (pb.Step(position=0, tokens=[1]), "rows.shape"),
    "nan": (
        pb.Step(position=0, tokens=[1], rows=struct.pack("<f", float("nan")) * WIDTH),
        "rows.not-finite",
    ),
    "infinite": (
        pb.Step(position=0, tokens=[1], rows=struct.pack("<f", float("inf")) * WIDTH),
        "rows.not-finite",
    ),
    "unknown encoding": (
        pb.Step(position=0, tokens=[1], rows=ROWS, encoding=7),  # type: ignore[arg-type]
        "rows.encoding",
    ),
    "false encoding": (
        pb.Step(position=0, tokens=[1], rows=ROWS, encoding=pb.ENCODING_Q8),
        "rows.shape",
    ),
    "infinite scales": (
        pb.Step(
            position=0,
            tokens=[1],
            rows=struct.pack("<f", float("inf")) * (WIDTH // 32) + bytes([1]) * WIDTH,
            encoding=pb.ENCODING_Q8,
        ),
        "rows.not-finite",
    ),
    "empty": (pb.Step(position=0), "step.size"),
    "huge": (pb.Step(position=0, tokens=[1] * 5000, rows=ROWS), "step.size"),
    "too long": (pb.Step(position=0, tokens=[1] * 65, rows=ROWS * 65), "step.capacity"),
    "unknown token": (pb.Step(position=0, tokens=[1 << 30], rows=ROWS), "step.tokens"),
}


@pytest.mark.parametrize("case", STEPS)
def test_a_step_that_does_not_fit_is_refused_and_the_text_goes_on(
    attacked: tuple[PeerProcess, Path], case: str
) -> None:
    """One line of why; then the same text takes an honest step."""
    peer, home = attacked
    step, code = STEPS[case]
    who = identity(home)

    async def attack() -> list[pb.Report]:
        model = (await described(peer, who)).spans[0].model
        good = pb.Step(position=0, tokens=[1], rows=ROWS)
        return await say(
            peer,
            who,
            opening(model),
            pb.Command(number=2, step=step),
            pb.Command(number=3, step=good),
        )

    opened, refused, computed = asyncio.run(attack())
    assert opened.done.length == 0
    assert refused.fault.code == code
    assert computed.result.num_tokens == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "0" * 64}, "span.not-hosted"),
        ({"end": 21}, "span.not-hosted"),
        ({"capacity": 1 << 31}, "cache.full"),
        ({"capacity": 0}, "cache.full"),
        ({"tokens": [1 << 31]}, "step.tokens"),
        ({"text": b"short"}, "text.known"),
    ],
)
def test_a_text_that_cannot_be_is_not_opened(
    attacked: tuple[PeerProcess, Path], changes: dict[str, Any], code: str
) -> None:
    """Nothing is kept of it."""
    peer, home = attacked
    who = identity(home)

    async def attack() -> tuple[pb.Report, pb.Description]:
        model = (await described(peer, who)).spans[0].model
        without_model = {k: v for k, v in changes.items() if k != "model"}
        [report] = await say(peer, who, opening(changes.get("model", model), **without_model))
        return report, await described(peer, who)

    report, after = asyncio.run(attack())
    assert report.fault.code == code
    assert after.spans[0].num_texts == 0


def test_rows_for_an_unknown_text_are_not_taken(attacked: tuple[PeerProcess, Path]) -> None:
    """Who does not know the name of a text cannot put rows into it."""
    peer, home = attacked

    async def attack() -> None:
        async with secure_channel(identity(home), peer.address, f"{peer.id}.peer") as channel:
            call: Any = channel.stream_unary(
                f"{SERVICE}Pass",
                request_serializer=pb.Passed.SerializeToString,
                response_deserializer=pb.Received.FromString,
            )(timeout=20)
            await call.write(pb.Passed(text=b"x" * 16, step=pb.Step(tokens=[1])))
            await call

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(attack())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_next_stage_that_takes_nothing_holds_nobody_up(
    attacked: tuple[PeerProcess, Path], tmp_path: Path
) -> None:
    """Whoever passes rows on is stuck until it is told to go back: then it does so at once."""
    peer, home = attacked
    who, deaf = identity(home), identity(member(tmp_path / "deaf", home))
    calls: list[object] = []

    async def take_nothing(request: object, context: Any) -> None:
        calls.append(request)
        await asyncio.sleep(60)

    async def attack() -> list[str | None]:
        # Windows that do not grow: what is not taken is soon not sent.
        server = grpc.aio.server(options=(("grpc.http2.bdp_probe", 0),))
        handler = grpc.stream_unary_rpc_method_handler(take_nothing)
        service = SERVICE.strip("/")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"Pass": handler}),)
        )
        port = server.add_secure_port("127.0.0.1:0", server_credentials(deaf))
        await server.start()
        follows = pb.Peer(id=deaf.id, address=f"127.0.0.1:{port}", text=secrets.token_bytes(16))
        model = (await described(peer, who)).spans[0].model
        async with secure_channel(who, peer.address, f"{peer.id}.peer") as channel:
            call = attach(channel, timeout_s=30)
            await call.write(opening(model, capacity=512, next=follows))
            kinds = [(await call.read()).WhichOneof("body")]
            # gRPC takes one message for those who do not ask, and some of the next.
            for position in range(0, 500, 100):
                step = pb.Step(position=position, tokens=[1] * 100, rows=ROWS * 100)
                await call.write(pb.Command(number=2, step=step))
            while not calls:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            await call.write(pb.Command(number=3, truncate=pb.Truncate(length=0, epoch=1)))
            report = await call.read()
            while report.number != 3:
                # What it says of the stage that is stuck is of an epoch that is over.
                assert report.fault.epoch == 0
                report = await call.read()
            kinds.append(report.WhichOneof("body"))
        await server.stop(None)
        return kinds

    assert asyncio.run(attack()) == ["done", "done"]


def test_a_peer_cannot_answer_for_another(attacked: tuple[PeerProcess, Path]) -> None:
    """A member is believed to be who its key is, not whoever listens at an address."""
    peer, home = attacked
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(say(peer, identity(home), opening("0"), name=f"{'0' * 40}.peer"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stranger_is_not_let_in(attacked: tuple[PeerProcess, Path], tmp_path: Path) -> None:
    """A certificate of another authority, and none at all."""
    peer, home = attacked
    mine = identity(founder(tmp_path / "stranger"))
    true = identity(home)
    pretending = replace(
        true, id=mine.id, key_pem=mine.key_pem, certificate_path=mine.certificate_path
    )
    for who in (mine, pretending):
        with pytest.raises(NoAnswerError, match=r"let this machine in|no member of this swarm"):
            asyncio.run(described(peer, who))


@pytest.mark.parametrize("days", [-800, 800], ids=["expired", "not valid yet"])
def test_a_certificate_out_of_its_time_is_refused(
    attacked: tuple[PeerProcess, Path], days: int, tmp_path: Path
) -> None:
    """Of a member whose month is over, and of one that a clock far ahead has let in."""
    peer, home = attacked
    with at_home(home):
        swarm = find_membership(SWARM)
        authority = load_authority(swarm)
        key = new_key()
        certificate = issue(authority, key.public_key(), utc_now() + timedelta(days=days))
    true = identity(home)
    path = tmp_path / "late.pem"
    path.write_bytes(certificate_pem(certificate))
    late = replace(true, certificate_path=path, key_pem=key_pem(key))
    with pytest.raises(NoAnswerError, match="does not let this machine in"):
        asyncio.run(described(peer, late))
    assert asyncio.run(described(peer, true)).id == peer.id


def test_one_peer_does_not_get_the_whole_cache(attacked: tuple[PeerProcess, Path]) -> None:
    """Room for one text is left for others; and no text is longer than was offered."""
    peer, home = attacked
    who = identity(home)
    model = asyncio.run(described(peer, who)).spans[0].model

    async def attack() -> list[pb.Report]:
        while (await described(peer, who)).spans[0].num_texts:
            await asyncio.sleep(0.05)
        async with secure_channel(who, peer.address, f"{peer.id}.peer") as channel:
            reports, calls = [], []
            for capacity in (1024, 1024, 1024, 1025, 256):
                call = attach(channel)
                calls.append(call)
                await call.write(opening(model, capacity=capacity))
                reports.append(await call.read())
            return reports

    reports = asyncio.run(attack())
    assert [r.WhichOneof("body") for r in reports] == ["done"] * 3 + ["fault"] * 2
    assert {r.fault.code for r in reports[3:]} == {"cache.full"}


def test_a_queue_is_full_by_bytes() -> None:
    """Whoever sends faster than is computed waits, however few messages it are."""

    async def fill() -> None:
        queue: BoundedQueue[int] = BoundedQueue(max_items=10, max_bytes=100)
        await queue.put(1, 500)
        waiting = asyncio.ensure_future(queue.put(2, 60))
        await asyncio.sleep(0.01)
        assert not waiting.done() and await queue.get() == 1
        await waiting
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await queue.put(3, 60)
        await queue.put(4, 40)
        assert [await queue.get(), await queue.get(), queue.num_bytes] == [2, 4, 0]

    asyncio.run(fill())


def test_the_queues_of_one_member_are_full_together() -> None:
    """Each has room for one thing, so that no two wait for each other; what ends gives its room back."""

    async def fill() -> None:
        shared = Allowance(100)
        one, other = (
            BoundedQueue[int](max_items=10, max_bytes=100, shared=shared) for _ in range(2)
        )
        await one.put(1, 90)
        await other.put(2, 90)
        waiting = [asyncio.ensure_future(queue.put(3, 5)) for queue in (one, other)]
        await asyncio.sleep(0.01)
        assert not any(one.done() for one in waiting) and shared.num_bytes == 180
        other.clear()
        await asyncio.gather(*waiting)
        assert shared.num_bytes == 100
        assert [await one.get(), await one.get(), await other.get()] == [1, 3, 3]
        assert shared.num_bytes == 0

    asyncio.run(fill())


def test_a_flood_of_texts_is_bounded(attacked: tuple[PeerProcess, Path]) -> None:
    """One member gets so many texts at once, and no more."""
    peer, home = attacked
    who = identity(home)

    async def attack() -> list[grpc.StatusCode | None]:
        async with secure_channel(who, peer.address, f"{peer.id}.peer") as channel:
            calls = [attach(channel) for _ in range(80)]
            codes = []
            for call in calls:
                try:
                    await call.write(pb.Command(number=1, probe=pb.Probe()))
                    await call.read()
                    codes.append(None)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    codes.append(await call.code())
            return codes

    codes = asyncio.run(attack())
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 16


def test_rows_are_checked_before_they_are_used() -> None:
    """Also those that a last stage answers with."""
    good = np.ones((2, 4), dtype="<f4")
    assert np.array_equal(read_rows(good.tobytes(), 2, 4), good)
    for data, shape in ((good.tobytes(), (2, 5)), (b"", (1, 4)), (good.tobytes(), (3, 4))):
        with pytest.raises(StepError, match="rows"):
            read_rows(data, *shape)
    good[1, 2] = np.nan
    with pytest.raises(StepError, match="finite"):
        read_rows(good.tobytes(), 2, 4)
    backwards = pb.Step(position=3, tokens=[1])
    with pytest.raises(StepError, match="position"):
        read_step(backwards, length=4, capacity=9, vocabulary_size=5, width=None)
