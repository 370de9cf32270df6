"""Streams of rows from a host to the next stage, at an address that a member names."""

import ipaddress
from collections import Counter
from typing import Any, Final

import grpc

from baremetalrt.core.addresses import format_address, parse_address
from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import Tasks
from baremetalrt.membership.certificates import peer_name
from baremetalrt.membership.identity import Identity
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.tls import secure_channel
from baremetalrt.peers.wire import SERVICE

# Ports below are those of other services, which a member has no business to have called.
_FIRST_PORT: Final = 1024
# Connections that nobody uses now, kept because the next text may go the same way.
_MAX_UNUSED: Final = 16


class AddressError(Exception):
    """Not an address at which a peer could be."""


def target_of(address: str, *, from_this_machine: bool) -> str:
    """What gRPC is to call for `HOST:PORT`, where no name is looked up and no socket file opened.

    `from_this_machine`: whether who names it is on this machine, too; others name none of its own.

    Raises:
        AddressError: it is a name, or an address that no peer has.
    """
    try:
        host, port = parse_address(address)
        ip = ipaddress.ip_address(host)
    except (UsageError, ValueError) as error:
        raise AddressError from error
    inner = getattr(ip, "ipv4_mapped", None) or ip
    is_none = inner.is_multicast or inner.is_unspecified or inner.is_link_local
    if is_none or port < _FIRST_PORT or (inner.is_loopback and not from_this_machine):
        raise AddressError
    return f"ipv{ip.version}:{format_address(host, port)}"


class PassStream:
    """A stream to the next stage. `close` it once, whatever became of it."""

    def __init__(self, streams: "PassStreams", key: tuple[str, str], call: Any) -> None:
        self._streams, self._key, self._call = streams, key, call
        self._is_closed = False

    async def write(self, message: pb.Passed) -> None:
        await self._call.write(message)

    def close(self) -> None:
        """Ends the stream, and what is being written to it."""
        self._call.cancel()
        if not self._is_closed:
            self._is_closed = True
            self._streams.release(self._key)


class PassStreams:
    """The connections of a host to those that follow: one for each peer, few that nobody uses."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        # in the order in which they were last used
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}
        self._users: Counter[tuple[str, str]] = Counter()
        self._closing = Tasks()

    def open(self, peer: pb.Peer, *, from_this_machine: bool) -> PassStream:
        """A stream to a stage that only the peer of that id can take; raises `AddressError`."""
        key = (target_of(peer.address, from_this_machine=from_this_machine), peer.id)
        channel = self._channels.pop(key, None)
        if channel is None:
            channel = secure_channel(self._identity, key[0], peer_name(peer.id))
        self._channels[key] = channel
        self._users[key] += 1
        call = channel.stream_unary(
            f"{SERVICE}Pass",
            request_serializer=pb.Passed.SerializeToString,
            response_deserializer=pb.Received.FromString,
        )()
        return PassStream(self, key, call)

    def release(self, key: tuple[str, str]) -> None:
        """One stream less."""
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
        unused = [one for one in self._channels if one not in self._users]
        for one in unused[: max(0, len(unused) - _MAX_UNUSED)]:
            channel = self._channels.pop(one)
            self._closing.start("closing a connection", channel.close())

    @property
    def num_channels(self) -> int:
        return len(self._channels)

    async def close(self) -> None:
        await self._closing.finished()
        for channel in self._channels.values():
            await channel.close()
