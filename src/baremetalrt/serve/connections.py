"""Connections that end when their client says nothing, says it too slowly, or does not listen.

uvicorn has a deadline for the pause between two requests alone. Its protocol for h11 is what knows how
far a request is, so that the rest is added there.
"""

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from baremetalrt.serve.idle_connections import ConnectionLimits, IdleConnections, Patience

_NO_LIMIT: Final = 1 << 16


def max_open_files() -> int:
    """How many files this process may open, connections among them."""
    try:
        import resource
    except ImportError:  # Windows
        return _NO_LIMIT
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _NO_LIMIT if soft == resource.RLIM_INFINITY else soft


def bounded_protocol(limits: ConnectionLimits) -> type[H11Protocol]:
    """The protocol of one server, whose connections share these bounds."""

    class BoundedProtocol(_BoundedProtocol):
        _limits = limits
        _idle = IdleConnections[_BoundedProtocol](limits)

    return BoundedProtocol


class _BoundedProtocol(H11Protocol):
    """`uvicorn` calls what is overridden here; `_follow` looks how far the request is by now."""

    _limits: ConnectionLimits
    _idle: "IdleConnections[_BoundedProtocol]"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited: object = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._stalled_at, self._unread = 0.0, 0
        self._patience = Patience(self._limits)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Every byte that the system does not take at once is one that a client has not read. Over TLS, as
        # many as the limit are too many already; elsewhere, only more are.
        is_secure = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=1 if is_secure else 0, low=0)
        self._follow()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.discard(self)
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_at = self.loop.time()
        self._unread = self.transport.get_write_buffer_size()
        wait_s = self._patience.for_s(self._unread)
        self._stalled = self.loop.call_later(wait_s, self.transport.abort)
        self._follow()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            self._patience.take(self.loop.time() - self._stalled_at, self._unread)
        self._follow()

    def _follow(self) -> None:
        """Sets the deadline of what the client has to send next, if that has changed."""
        if self.transport.is_closing():
            self._idle.discard(self)
            return
        state = self.conn.their_state
        awaited = state if state in (h11.IDLE, h11.SEND_BODY) else None
        if awaited is None or self._stalled is not None:
            self._idle.discard(self)
        elif (victim := self._idle.add(self, self.client[0] if self.client else "")) is not None:
            victim.transport.abort()
        if awaited is self._awaited:
            return
        self._awaited = awaited
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if awaited is None:
            self._patience.renew()
            return
        wait_s = self._limits.head_s if awaited is h11.IDLE else self._limits.body_s
        # What was answered is still sent, as long as the client reads it.
        self._deadline = self.loop.call_later(wait_s, self.transport.close)
