"""What libtorrent has to say: a socket by which it wakes the event loop, and who hears of what."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import libtorrent as lt

from baremetalrt.core.errors import CapacityError


class TorrentGoneError(CapacityError):
    """The torrent that somebody waited for was removed meanwhile, or the client of all was closed."""

    def __init__(self) -> None:
        super().__init__(
            "the torrent was removed while it was waited for",
            code="torrent.removed",
            hint="start again",
        )


@dataclass(frozen=True)
class Handlers:
    """What is done about alerts, by their type.

    `answers` are those that somebody may wait for: the type that is waited for (a failure answers for
    what has failed), and what of the alert is told; alerts are void once the next ones are fetched.
    `events` come unasked.
    """

    answers: Mapping[type, tuple[type, Callable[[Any], object]]]
    events: Mapping[type, Callable[[Any], None]]


class Alerts:
    """Hands alerts to `handlers`, and to those who `expect` one."""

    def __init__(self, session: lt.session, handlers: Handlers) -> None:
        self._session = session
        self._handlers = handlers
        self._expected: dict[tuple[str, type], list[asyncio.Future[Any]]] = {}
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        asyncio.get_running_loop().add_reader(self._near, self._on_readable)
        session.set_alert_fd(self._far.fileno())

    def expect(self, key: str, kind: type) -> "asyncio.Future[Any]":
        """What the next alert of that kind says about a torrent (see `key_of`), or about none ("").

        It raises what the answer is, where that is an error, and `TorrentGoneError`.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._expected.setdefault((key, kind), []).append(future)
        return future

    def close(self) -> None:
        """Hears of nothing any more; the session is somebody else's."""
        asyncio.get_running_loop().remove_reader(self._near)
        for key, kind in list(self._expected):
            self._answer(key, kind, TorrentGoneError())

    def close_sockets(self) -> None:
        """After the session has ended, which writes to one of them."""
        self._near.close()
        self._far.close()

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._near.recv(4096):
                pass
        for alert in self._session.pop_alerts():
            self._on_alert(alert)

    def _on_alert(self, alert: lt.alert) -> None:
        if found := self._handlers.answers.get(type(alert)):
            kind, read = found
            answer = read(alert)
            for key in _keys_of(alert):
                self._answer(key, kind, answer)
                if kind is lt.torrent_removed_alert:
                    self._abandon(key)
        if handler := self._handlers.events.get(type(alert)):
            handler(alert)

    def _answer(self, key: str, kind: type, answer: object) -> None:
        for future in self._expected.pop((key, kind), ()):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _abandon(self, key: str) -> None:
        """Nothing more will be said of a torrent."""
        for known, kind in [expected for expected in self._expected if expected[0] == key]:
            self._answer(known, kind, TorrentGoneError())


def _keys_of(alert: Any) -> list[str]:
    """Under which keys somebody may wait for an alert."""
    if isinstance(alert, (lt.torrent_removed_alert, lt.add_torrent_alert)):
        # The handle is void already, or was never there.
        hashes = (
            alert.info_hashes
            if isinstance(alert, lt.torrent_removed_alert)
            else alert.params.info_hashes
        )
        return [_hex(hashes)]
    handle = getattr(alert, "handle", None)
    if handle is None:
        return [""]
    keys = [key_of(handle)]
    if isinstance(alert, lt.metadata_received_alert):
        # Who had only its v1 hash waits under that: now the torrent turns out to be a hybrid one.
        keys.append(str(handle.info_hashes().v1))
    return keys


def key_of(handle: lt.torrent_handle) -> str:
    """What names a torrent of a session."""
    return _hex(handle.info_hashes())


def key_of_params(params: lt.add_torrent_params) -> str:
    """The same, before it is one."""
    return _hex(params.ti.info_hashes() if params.ti else params.info_hashes)


def _hex(hashes: lt.info_hash_t) -> str:
    return str(hashes.v2 if hashes.has_v2() else hashes.v1)
