"""One stage as its caller sees it: a stream of commands and reports to one peer."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.tasks import Tasks
from baremetalrt.membership.authority import utc_now
from baremetalrt.membership.certificates import peer_name
from baremetalrt.membership.identity import Identity
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.failures import CLOSED, describe_call
from baremetalrt.peers.lists import MAX_LISTS, MAX_LISTS_BYTES, within
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.peers.tls import secure_channel
from baremetalrt.peers.wire import SERVICE

# Connections that no text uses.
_MAX_UNUSED: Final = 32
# No text lasts longer.
_GRACE_S: Final = 3600.0
_EXPELLED: Final = "it was put out of the swarm"
_log = logging.getLogger("baremetalrt.peers")


class NoAnswerError(Exception):
    """Nobody is there, or nobody that TLS lets pass."""


class Channels:
    """Connections to peers, one for each; some that nobody uses now are kept for the next text."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        # in the order in which they were last used, with the certificate that they show
        self._channels: dict[tuple[str, str], tuple[grpc.aio.Channel, bytes]] = {}
        # what runs
        self.calls: set[StageCall] = set()
        self._closing = Tasks()

    def to(self, address: str, peer: str) -> grpc.aio.Channel:
        """A connection that only the peer of that id can answer."""
        key, certificate = (address, peer), self._identity.certificate_pem
        channel, shown = self._channels.pop(key, (None, b""))
        if channel is not None and shown != certificate:
            # With a certificate that was renewed it would fail once it has to connect again.
            self._end(channel)
            channel = None
        if channel is None:
            channel = secure_channel(self._identity, address, peer_name(peer))
        self._channels[key] = channel, certificate
        used = {(one.span.address, one.span.id) for one in self.calls} | {key}
        unused = [one for one in self._channels if one not in used]
        for one in unused[: max(0, len(unused) - _MAX_UNUSED)]:
            self._end(self._channels.pop(one)[0])
        return channel

    def _end(self, channel: grpc.aio.Channel) -> None:
        """Closes it once what runs on it is over."""
        self._closing.start("closing a connection", channel.close(_GRACE_S))

    async def describe(self, address: str, *, timeout_s: float) -> tuple[pb.Description, float]:
        """Who is at an address and what it hosts, and the seconds of a round trip.

        It is a member of the swarm, whichever it is.

        Raises:
            NoAnswerError: nobody answers in time, or no member does.
        """
        try:
            return await self._describe(address, timeout_s)
        except grpc.aio.AioRpcError as error:
            raise NoAnswerError(describe_call(error, utc_now())) from error

    async def _describe(self, address: str, timeout_s: float) -> tuple[pb.Description, float]:
        expelled = self._identity.expelled
        async with secure_channel(self._identity, address, self._identity.swarm) as channel:
            call: Any = channel.unary_unary(
                f"{SERVICE}Describe",
                request_serializer=pb.DescribeRequest.SerializeToString,
                response_deserializer=pb.Description.FromString,
            )
            known = expelled.current()
            request = pb.DescribeRequest(expulsions=known.number)
            first: pb.Description = await call(request, timeout=timeout_s)
            if first.expulsion_list:
                await self._accept_expulsions(first.expulsion_list)
            if first.expulsions < known.number:
                request.expulsion_list = known.signed
            # Only now is there a connection, and the time is that of the way alone.
            asked_at = time.perf_counter()
            description: pb.Description = await call(request, timeout=timeout_s)
            return description, time.perf_counter() - asked_at

    async def _accept_expulsions(self, signed: bytes) -> None:
        try:
            if not await asyncio.to_thread(self._identity.expelled.accept, signed):
                return
        except ValueError as error:
            raise NoAnswerError(f"it passes on a list of its own making: {error}") from error
        except CapacityError as error:
            _log.warning("who was put out is not noted down: %s", error.message)
            return
        self.leave_expelled()

    def leave_expelled(self) -> None:
        """What runs at who was put out is lost at once."""
        expelled = self._identity.expelled.current().peers
        for call in [one for one in self.calls if one.span.id in expelled]:
            call.lose(_EXPELLED)

    async def renew(self, address: str, *, timeout_s: float) -> pb.Renewed:
        """New certificates of this member from the creator of the swarm; they are still to be checked.

        Raises:
            NoAnswerError: nobody gives one.
        """
        async with secure_channel(self._identity, address, self._identity.swarm) as channel:
            call: Any = channel.unary_unary(
                f"{SERVICE}Renew",
                request_serializer=pb.RenewRequest.SerializeToString,
                response_deserializer=pb.Renewed.FromString,
            )
            try:
                renewed: pb.Renewed = await call(pb.RenewRequest(), timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise NoAnswerError(describe_call(error, utc_now())) from error
        return renewed

    async def lists(
        self, address: str, known: Mapping[str, int], *, timeout_s: float
    ) -> list[bytes]:
        """Signed lists of models that are newer than those `known`; they are still to be checked.

        Raises:
            NoAnswerError: nobody answers.
        """
        request = pb.ListsRequest(
            known=[
                pb.KnownList(key=bytes.fromhex(key), number=number)
                for key, number in list(known.items())[:MAX_LISTS]
            ]
        )
        async with secure_channel(self._identity, address, self._identity.swarm) as channel:
            call: Any = channel.unary_unary(
                f"{SERVICE}Lists",
                request_serializer=pb.ListsRequest.SerializeToString,
                response_deserializer=pb.ListsReply.FromString,
            )
            try:
                reply: pb.ListsReply = await call(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise NoAnswerError(describe_call(error, utc_now())) from error
        return within(reply.lists, MAX_LISTS_BYTES)

    async def close(self) -> None:
        await self._closing.close()
        for channel, _ in self._channels.values():
            await channel.close()


class StageCall:
    """Commands to one stage. What it reports, and why it is lost, is said at once."""

    def __init__(
        self,
        channels: Channels,
        span: RemoteSpan,
        text: bytes,
        *,
        on_report: Callable[[pb.Report], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.span = span
        self.text = text
        self._is_lost = False
        self._number = self._closing = 0
        self._ended = asyncio.Event()
        self._on_report = on_report
        self._on_lost = on_lost
        self._call: Any = channels.to(span.address, span.id).stream_stream(
            f"{SERVICE}Attach",
            request_serializer=pb.Command.SerializeToString,
            response_deserializer=pb.Report.FromString,
        )()
        self._outbox: asyncio.Queue[pb.Command] = asyncio.Queue()
        self._calls = channels.calls
        self._calls.add(self)
        self._tasks = Tasks()
        self._tasks.start(f"reading from peer {span.id[:8]}", self._read())
        self._tasks.start(f"writing to peer {span.id[:8]}", self._write())
        # Another process may have heard of it.
        asyncio.get_running_loop().call_soon(channels.leave_expelled)

    @property
    def peer(self) -> pb.Peer:
        return pb.Peer(id=self.span.id, address=self.span.address, text=self.text)

    def send(self, command: pb.Command) -> None:
        self._number = max(self._number, command.number)
        self._outbox.put_nowait(command)

    def probe(self) -> None:
        """Asks for a sign of life."""
        self._outbox.put_nowait(pb.Command(probe=pb.Probe()))

    async def close(self) -> None:
        self._is_lost = True
        self._calls.discard(self)
        self._call.cancel()
        await self._tasks.close()

    async def finish(self, *, keep: bool, timeout_s: float) -> None:
        """Ends the text there; `keep` leaves it for later ones that begin alike."""
        if not self._is_lost:
            self._closing = self._number + 1
            self.send(pb.Command(number=self._closing, close=pb.Close(keep=keep)))
            try:
                async with asyncio.timeout(timeout_s):
                    await self._ended.wait()
                    await self._call.done_writing()
            except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass
        await self.close()

    async def _write(self) -> None:
        why = CLOSED
        try:
            while True:
                await self._call.write(await self._outbox.get())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            why = describe_call(error, utc_now())
        finally:
            self.lose(why)

    async def _read(self) -> None:
        why = "it ended the text"
        try:
            async for report in self._call:
                if report.number and report.number == self._closing:
                    self._ended.set()
                self._on_report(report)
        except grpc.aio.AioRpcError as error:
            why = describe_call(error, utc_now())
        finally:
            self.lose(why)

    def lose(self, why: str) -> None:
        """The stage is lost; told once."""
        self._ended.set()
        self._calls.discard(self)
        if not self._is_lost:
            self._is_lost = True
            self._on_lost(why)
