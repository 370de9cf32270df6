"""Connections whose other end has not shown a certificate: few for each address.

gRPC gives each some seconds and bounds all together; that one address has not all of them it does not
know. It accepts connections itself, so they are looked at where the system has them: only on Linux.
"""

import contextlib
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final

MAX_SILENT_EACH: Final = 32
# Nothing is looked at while a process has fewer files open.
_FEW_FILES: Final = 128
# Less than a TLS client with a certificate has sent when it is through.
_HANDSHAKE_BYTES: Final = 900
_FDS: Final = "/proc/self/fd"
# `tcpi_bytes_received`. Source: linux/tcp.h, since 4.1.
_RECEIVED_AT: Final = 128
_TCP_INFO_BYTES: Final = 136


def raise_file_limit() -> None:
    """As many files and connections as the system lets this process have."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; not everywhere
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def close_silent(port: int, max_each: int = MAX_SILENT_EACH) -> int:
    """Hangs up on all but `max_each` silent connections of an address to `port`. How many that were.

    A connection that was hung up on is gRPC's to clean up, as if the other end had gone.
    """
    try:
        descriptors = os.listdir(_FDS)
    except OSError:
        return 0
    if len(descriptors) < _FEW_FILES:
        return 0
    silent: Counter[str] = Counter()
    num_closed = 0
    for connection in _connections(descriptors, port):
        if _received(connection) >= _HANDSHAKE_BYTES:
            continue
        address = connection.getpeername()[0]
        silent[address] += 1
        if silent[address] > max_each:
            connection.shutdown(socket.SHUT_RDWR)
            num_closed += 1
    return num_closed


def _connections(descriptors: list[str], port: int) -> Iterator[socket.socket]:
    """Those of this process to a port of its own, under descriptors of their own, while they last."""
    for one in descriptors:
        # Closed or no socket by now; or listening, with nobody at the other end.
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(int(one))) as connection,
        ):
            is_tcp = connection.type is socket.SOCK_STREAM
            is_inet = connection.family in (socket.AF_INET, socket.AF_INET6)
            if is_tcp and is_inet and connection.getsockname()[1] == port:
                connection.getpeername()
                yield connection


def _received(connection: socket.socket) -> int:
    """Bytes that have come; a great many where the system does not say."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        return 1 << 62
    (received,) = struct.unpack_from("<Q", info, _RECEIVED_AT)
    return int(received)
