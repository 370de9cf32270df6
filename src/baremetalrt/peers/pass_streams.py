"""Streams of rows from a host to the next stage, at an address that a member names."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import grpc

from baremetalrt.core.tasks import Tasks
from baremetalrt.membership.certificates import peer_name
from baremetalrt.membership.identity import Identity
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.reach import IPAddress, ReachLimit, Target, target_of
from baremetalrt.peers.tls import secure_channel
from baremetalrt.peers.wire import SERVICE

# Connections that nobody uses now, kept because the next text may go the same way.
_MAX_UNUSED: Final = 16
# No text lasts longer.
_GRACE_S: Final = 3600.0


class PassStream:
    """A stream to the next stage. `close` it once, whatever became of it."""

    def __init__(self, streams: "PassStreams", target: Target, call: Any) -> None:
        self._streams, self._target, self._call = streams, target, call
        self._is_closed = False

    async def write(self, message: pb.Passed) -> None:
        """Raises what gRPC does, where the peer is not there, or not any more."""
        await self._call.write(message)
        self._streams.note_reached(self._target)

    def close(self) -> None:
        """Ends the stream, and what is being written to it."""
        self._call.cancel()
        if not self._is_closed:
            self._is_closed = True
            self._streams.release(self._target)


class PassStreams:
    """The connections of a host to those that follow: one for each peer, few that nobody uses."""

    def __init__(self, identity: Identity, clock: Callable[[], float] = time.monotonic) -> None:
        self._identity = identity
        # in the order in which they were last used, with the certificate that they show
        self._channels: dict[Target, tuple[grpc.aio.Channel, bytes]] = {}
        self._users: Counter[Target] = Counter()
        self._limit = ReachLimit()
        self._clock = clock
        self._closing = Tasks()

    def open(self, peer: pb.Peer, caller: str, *, named_from: IPAddress | None) -> PassStream:
        """A stream to a stage that only the peer of that id can take, for a caller who is there.

        Raises:
            AddressError: no such address is called, or none more for this caller.
        """
        key = (target_of(peer.address, named_from=named_from), peer.id)
        self._limit.call(caller, key, self._clock())
        certificate = self._identity.certificate_pem
        channel, shown = self._channels.pop(key, (None, b""))
        if channel is not None and shown != certificate:
            # With a certificate that was renewed it would fail once it has to connect again.
            self._closing.start("closing a connection", channel.close(_GRACE_S))
            channel = None
        if channel is None:
            channel = secure_channel(self._identity, key[0], peer_name(peer.id))
        self._channels[key] = channel, certificate
        self._users[key] += 1
        call = channel.stream_unary(
            f"{SERVICE}Pass",
            request_serializer=pb.Passed.SerializeToString,
            response_deserializer=pb.Received.FromString,
        )()
        return PassStream(self, key, call)

    def note_reached(self, target: Target) -> None:
        """The peer took a message."""
        self._limit.reached(target)

    def release(self, key: Target) -> None:
        """One stream less."""
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
        unused = [one for one in self._channels if one not in self._users]
        for one in unused[: max(0, len(unused) - _MAX_UNUSED)]:
            channel, _ = self._channels.pop(one)
            self._closing.start("closing a connection", channel.close())

    @property
    def num_channels(self) -> int:
        return len(self._channels)

    async def close(self) -> None:
        await self._closing.close()
        for channel, _ in self._channels.values():
            await channel.close()
