"""Listens on an address and says which one it became."""

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

import uvicorn
from starlette.applications import Starlette

from baremetalrt.core.errors import UsageError
from baremetalrt.serve.connections import bounded_protocol
from baremetalrt.serve.idle_connections import ConnectionLimits
from baremetalrt.serve.tls import TlsFiles

_GRACE_S: Final = 5
_BACKLOG: Final = 128
_HINTS: Final = {
    errno.EADDRINUSE: "is another server running there? choose a port with --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; see --host",
    errno.EACCES: "ports below 1024 are not for everybody; choose one with --port",
}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[str, int], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            self._announce(*sockets[0].getsockname()[:2])


def bind(host: str, port: int) -> list[socket.socket]:
    """Takes the addresses of a host, before anything else is done; port 0 finds a free one.

    Raises:
        UsageError: one cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(
            socket.getaddrinfo(
                host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        ):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            if os.name == "posix":
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
    except (OSError, UnicodeError) as error:
        for one in sockets:
            one.close()
        raise _refused(host, port, error) from error
    return sockets


def listen(
    application: Starlette,
    sockets: Sequence[socket.socket],
    limits: ConnectionLimits,
    tls: TlsFiles | None = None,
    *,
    announce: Callable[[str, int], None],
) -> None:
    """Serves at these sockets until interrupted. `announce` hears the address once it answers.

    Raises:
        UsageError: somebody else listens there by now.
        Exception: what the application could not begin or end with, as it left it in `state.failure`.
    """
    # So many are taken in one go, before any of them can be let go again.
    backlog = min(_BACKLOG, max(8, limits.max_idle // 4))
    server = _Server(
        uvicorn.Config(
            application,
            http=bounded_protocol(limits),
            ws="none",
            lifespan="on",
            backlog=backlog,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
        ),
        announce,
    )
    try:
        for one in sockets:
            one.listen(backlog)
    except OSError as error:
        address, number = one.getsockname()[:2]
        raise _refused(address, number, error) from error
    # uvicorn shuts down gracefully, then raises the signal once more: this time it is for us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        server.run(list(sockets))
    except SystemExit:
        pass
    failure = getattr(application.state, "failure", None)
    if failure is not None:
        raise failure


def _refused(host: str, port: int, error: OSError | UnicodeError) -> UsageError:
    number = error.errno if isinstance(error, OSError) else None
    hint = _HINTS.get(number or 0)
    why = "" if hint else f": {error.strerror if isinstance(error, OSError) else error}"
    return UsageError(
        f"cannot listen on {host}:{port}{why}", code="server.address", hint=hint or "see --host"
    )
