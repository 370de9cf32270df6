"""Listens on an address and says which one it became."""

import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

import uvicorn
from starlette.applications import Starlette

from baremetalrt.core.errors import BareMetalError, UsageError

_GRACE_S: Final = 5


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[str, int], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in getattr(self, "servers", []):
            for bound in listening.sockets:
                self._announce(*bound.getsockname()[:2])
                return


def listen(
    application: Starlette, *, host: str, port: int, announce: Callable[[str, int], None]
) -> None:
    """Serves until interrupted. `announce` hears the address once it answers; port 0 finds a free one.

    Raises:
        UsageError: the address cannot be had.
        BareMetalError: what the application could not begin with, if it left that in its `state.failure`.
    """
    server = _Server(
        uvicorn.Config(
            application,
            host=host,
            port=port,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        ),
        announce,
    )
    # uvicorn shuts down gracefully, then raises the signal once more: this time it is for us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        server.run()
    except SystemExit:
        pass
    failure = getattr(application.state, "failure", None)
    if isinstance(failure, BareMetalError):
        raise failure
    if not server.started:
        raise UsageError(
            f"cannot listen on {host}:{port}",
            code="server.address",
            hint="is another server running there? choose a port with --port",
        )
