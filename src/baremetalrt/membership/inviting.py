"""The inviter's end: answers those who were invited, and makes them members."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from baremetalrt.core.addresses import format_address
from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.network_reasons import describe_failure
from baremetalrt.core.tasks import Tasks
from baremetalrt.membership.authority import Membership, load_authority, utc_now
from baremetalrt.membership.certificates import peer_id
from baremetalrt.membership.invitations import MAX_ADDRESSES, check_token, refusal, use_token
from baremetalrt.membership.join_protocol import (
    DEADLINE_S,
    JOIN,
    MAX_MESSAGE_BYTES,
    Hello,
    Issued,
    Join,
    Refused,
    Streams,
    close,
    receive,
    send,
)
from baremetalrt.membership.renewing import Renewals

_log = logging.getLogger("baremetalrt.swarm")

_MAX_CONNECTIONS: Final = 16
_MAX_CONNECTIONS_EACH: Final = 4
# Who joins with the last use of an invitation still gets their certificate.
_FAREWELL_S: Final = 2.0


class InvitationServer:
    """Answers those who were invited into one swarm, on one port, while it is entered.

    `host` is the address of an interface, or `0.0.0.0` or `::` for all; port 0 takes a free one.
    """

    def __init__(
        self,
        membership: Membership,
        host: str,
        port: int = 0,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._membership = membership
        self._authority = load_authority(membership)
        self._host, self.port = host, port
        self._clock = clock
        self._tasks = Tasks()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls.load_cert_chain(membership.certificate_path, membership.key_path)
        self._connections: dict[asyncio.Task[None], str] = {}

    async def __aenter__(self) -> Self:
        try:
            self._socket = socket.create_server(
                (self._host, self.port),
                family=socket.AF_INET6 if ":" in self._host else socket.AF_INET,
                dualstack_ipv6=self._host == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            raise UsageError(
                f"cannot listen on {format_address(self._host, self.port)}: {describe_failure(error)}",
                code="swarm.listen",
                parameter="port",
                hint="name an address of this machine with --address, or another --port",
            ) from error
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        self._accepting = self._tasks.start("waiting for machines that join", self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._socket.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=_FAREWELL_S)
        await self._tasks.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._socket)
            except OSError as error:
                # Too many open files, or a caller who hung up: neither is a reason to stop.
                _log.warning("could not accept a connection: %s", describe_failure(error))
                await asyncio.sleep(0.1)
                continue
            host = str(address[0]).removeprefix("::ffff:")
            here = Counter(self._connections.values())
            if here.total() >= _MAX_CONNECTIONS or here[host] >= _MAX_CONNECTIONS_EACH:
                _log.warning("hung up on %s: too many connections at once", host)
                connection.close()
                continue
            caller = format_address(host, address[1])
            task = self._tasks.start(f"answering {caller}", self._answer(connection, caller))
            self._connections[task] = host
            task.add_done_callback(self._connections.pop)

    async def _answer(self, connection: socket.socket, caller: str) -> None:
        try:
            reader, writer = await self._encrypt(connection)
        except (OSError, EOFError) as error:
            _log.warning("refused %s: no TLS 1.3 connection: %s", caller, describe_failure(error))
            connection.close()
            return
        try:
            await self._admit(reader, writer, caller)
        except (OSError, EOFError) as error:
            _log.warning("lost %s: %s", caller, describe_failure(error))
        finally:
            await close(writer)

    async def _encrypt(self, connection: socket.socket) -> Streams:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_MESSAGE_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._tls,
            ssl_handshake_timeout=DEADLINE_S,
            ssl_shutdown_timeout=1.0,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _admit(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: str
    ) -> None:
        authority = self._authority.certificate
        await send(writer, Hello(authority.public_bytes(serialization.Encoding.DER)))
        try:
            request = await receive(reader, JOIN)
            issued, left = self._certify(request)
        except BareMetalError as error:
            _log.warning("refused %s: %s (%s)", caller, error.message, error.code)
            await send(writer, Refused(error.code))
        except ValueError as error:
            _log.warning("refused %s: %s (invitation.request)", caller, error)
            await send(writer, Refused("invitation.request"))
        else:
            _log.info("%s joined %s; uses left: %d", caller, self._membership.name, left)
            await send(writer, issued)

    def _certify(self, message: Join) -> tuple[Issued, int]:
        now = self._clock()
        # First of all: who has no token gets nothing else of what they sent looked at.
        check_token(self._membership, message.token, now)
        # Only the key is taken from the request: its holder does not choose what it may do.
        key = _requested_key(message.request)
        peer = peer_id(key)
        if peer in self._membership.expelled:
            raise refusal("invitation.expelled")
        # On disk before the certificate leaves: a crash here may cost a use, and never grants one.
        left = use_token(self._membership, message.token, now)
        certificate, for_torrents = Renewals(self._membership, self._clock).certificates(key)
        expulsions = self._membership.expelled.current()
        return Issued(certificate, for_torrents, expulsions.signed), left


def lan_addresses() -> list[str]:
    """IPv4 addresses of this machine that others on its networks may reach, the likeliest first."""
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = [
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        if name in up
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    usable = [
        a for a in found if not (ip := ipaddress.ip_address(a)).is_loopback and not ip.is_link_local
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        # Sends nothing: it only asks which address the way out has. Source: RFC 5737, TEST-NET-1.
        probe.connect(("192.0.2.1", 9))
        first = probe.getsockname()[0]
        usable.sort(key=lambda address: address != first)
    return usable[:MAX_ADDRESSES]


def listening_host(hosts: Sequence[str]) -> str:
    """Where to listen so that all of `hosts` lead here: on one of them if that does, else on all."""
    import psutil

    if len(hosts) == 1:
        addresses = {e.address for entries in psutil.net_if_addrs().values() for e in entries}
        if hosts[0] in addresses or hosts[0] == "localhost":
            return hosts[0]
    return "::" if any(":" in host for host in hosts) else "0.0.0.0"


def _requested_key(der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        is_signed = request.is_signature_valid
    # Strangers write it, and the errors of parsing it have no common base.
    except Exception as error:
        raise ValueError("a signing request that cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a signing request for a key that is not P-256")
    if not is_signed:
        raise ValueError("a signing request by somebody who does not hold the key")
    return key
