"""One stage as its caller sees it: a stream of commands and reports to one peer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from baremetalrt.core.spans import BlockSpan
from baremetalrt.membership.certificates import peer_name
from baremetalrt.membership.identity import Identity
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.tls import secure_channel
from baremetalrt.peers.wire import SERVICE


@dataclass(frozen=True)
class RemoteSpan:
    """A span that a peer hosts. `address` is `HOST:PORT`; `id` is what its certificate must show."""

    id: str
    address: str
    model: str
    blocks: BlockSpan
    num_blocks: int


class NoAnswerError(Exception):
    """Nobody is there, or nobody that TLS lets pass."""


class Channels:
    """Connections to peers, one for each, kept while they are of use."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    def to(self, address: str, peer: str) -> grpc.aio.Channel:
        """A connection that only the peer of that id can answer."""
        key = (address, peer)
        if key not in self._channels:
            self._channels[key] = secure_channel(self._identity, address, peer_name(peer))
        return self._channels[key]

    async def describe(self, address: str, *, timeout_s: float) -> tuple[pb.Description, float]:
        """Who is at an address and what it hosts, and the seconds of a round trip.

        It is a member of the swarm, whichever it is.

        Raises:
            NoAnswerError: nobody answers in time, or no member does.
        """
        try:
            return await self._describe(address, timeout_s)
        except grpc.aio.AioRpcError as error:
            raise NoAnswerError(_why(error)) from error

    async def _describe(self, address: str, timeout_s: float) -> tuple[pb.Description, float]:
        async with secure_channel(self._identity, address, self._identity.swarm) as channel:
            call: Any = channel.unary_unary(
                f"{SERVICE}Describe",
                request_serializer=pb.DescribeRequest.SerializeToString,
                response_deserializer=pb.Description.FromString,
            )
            await call(pb.DescribeRequest(), timeout=timeout_s)
            # Only now is there a connection, and the time is that of the way alone.
            asked_at = time.perf_counter()
            description: pb.Description = await call(pb.DescribeRequest(), timeout=timeout_s)
            return description, time.perf_counter() - asked_at

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


class StageCall:
    """Commands to one stage. What it reports, and that it is lost, goes to `on_change` at once."""

    def __init__(
        self,
        channels: Channels,
        span: RemoteSpan,
        text: bytes,
        *,
        on_result: Callable[[pb.Result], None],
        on_change: Callable[[], None],
    ) -> None:
        self.span = span
        self.text = text
        self.faults: list[pb.Fault] = []
        self.lost: str | None = None
        self.heard_at = time.monotonic()
        self.answers: dict[int, pb.Done] = {}
        self._number = self._closing = 0
        self._ended = asyncio.Event()
        self._on_result = on_result
        self._on_change = on_change
        self._call: Any = channels.to(span.address, span.id).stream_stream(
            f"{SERVICE}Attach",
            request_serializer=pb.Command.SerializeToString,
            response_deserializer=pb.Report.FromString,
        )()
        self._outbox: asyncio.Queue[pb.Command] = asyncio.Queue()
        self._tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._send())]

    @property
    def is_sound(self) -> bool:
        return self.lost is None and not self.faults

    @property
    def peer(self) -> pb.Peer:
        return pb.Peer(id=self.span.id, address=self.span.address, text=self.text)

    def command(self, **body: Any) -> int:
        """Sends a command; the number under which `answers` will have its answer."""
        self._number += 1
        self._outbox.put_nowait(pb.Command(number=self._number, **body))
        return self._number

    def probe(self) -> None:
        """Asks for a sign of life."""
        self._outbox.put_nowait(pb.Command(probe=pb.Probe()))

    def lose(self, why: str) -> None:
        """Gives the peer up."""
        if self.lost is None:
            self.lost = why
            self._ended.set()
            self._on_change()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finish(self, *, keep: bool, timeout_s: float) -> None:
        """Ends the text there; `keep` leaves it for later ones that begin alike."""
        if self.is_sound:
            self._closing = self.command(close=pb.Close(keep=keep))
            try:
                async with asyncio.timeout(timeout_s):
                    await self._ended.wait()
                    await self._call.done_writing()
            except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass
        await self.close()

    async def _send(self) -> None:
        try:
            while True:
                await self._call.write(await self._outbox.get())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            self.lose(_why(error))

    async def _read(self) -> None:
        try:
            async for report in self._call:
                self._take(report)
        except grpc.aio.AioRpcError as error:
            self.lose(_why(error))
        else:
            self.lose("it ended the text")

    def _take(self, report: pb.Report) -> None:
        self.heard_at = time.monotonic()
        kind = report.WhichOneof("body")
        if kind == "done" and report.number:
            self.answers[report.number] = report.done
            if report.number == self._closing:
                self._ended.set()
        elif kind == "result":
            self._on_result(report.result)
        elif kind == "fault":
            self.faults.append(report.fault)
        self._on_change()


def _why(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name.lower().replace('_', ' ')}: {error.details()}"
    return "the connection is closed"
