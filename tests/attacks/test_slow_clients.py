"""Clients that say nothing, say it slowly, or do not listen: nobody else waits for them."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from baremetalrt.serve.connections import bounded_protocol
from baremetalrt.serve.idle_connections import (
    ConnectionLimits,
    IdleConnections,
    Patience,
    limits_for,
)
from commands import ServerProcess

_HEAD = b"POST /take HTTP/1.1\r\nHost: localhost\r\n"
_BODY = _HEAD + b"Content-Length: 100\r\n\r\n"
_LIMITS = ConnectionLimits(
    max_idle=12,
    max_idle_per_address=8,
    head_s=0.5,
    body_s=0.5,
    stalled_s=0.5,
    least_bytes_per_s=float(1 << 30),
)


class Served:
    """An application behind the real protocol, in this process."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.sent = 0
        self.is_left = threading.Event()
        routes = [Route("/take", self._take, methods=["POST"]), Route("/pour", self._pour)]
        config = uvicorn.Config(
            Starlette(routes=routes),
            http=bounded_protocol(limits),
            log_level="critical",
            timeout_keep_alive=60,
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()

    async def _take(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def _pour(self, request: Request) -> StreamingResponse:
        async def pieces():  # type: ignore[no-untyped-def]
            try:
                while True:
                    yield b"x" * 65536
                    self.sent += 65536
                    await asyncio.sleep(0.001)
            finally:
                self.is_left.set()

        return StreamingResponse(pieces())

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(data)
        return connection

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[list[Served]]:
    started: list[Served] = []
    yield started
    for one in started:
        one.close()


def begin(serve: list[Served], **limits: float) -> Served:
    serve.append(Served(replace(_LIMITS, **limits)))  # type: ignore[arg-type]
    return serve[-1]


def is_hung_up_on(connection: socket.socket) -> bool:
    """Reads to the end, which must come."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("sent", [b"", b"POST", _HEAD, _HEAD + b"X: ", _BODY, _BODY + b"{"])
def test_half_a_request_has_a_deadline(serve: list[Served], sent: bytes) -> None:
    """However far it came; while a whole one has all the time."""
    served = begin(serve)
    assert is_hung_up_on(served.connect(sent))


def test_a_byte_now_and_then_is_no_request(serve: list[Served]) -> None:
    """The deadline is for all of it, and does not begin again with each byte."""
    served = begin(serve)
    connection = served.connect(_HEAD)
    began_at = time.monotonic()
    try:
        while time.monotonic() < began_at + 60:
            connection.sendall(b"X")
            time.sleep(0.05)
        pytest.fail("nobody hung up")
    except OSError:
        pass


def test_a_connection_can_be_kept(serve: list[Served]) -> None:
    """Each request has its own deadline, also where the one before it was refused unread."""
    served = begin(serve, head_s=60.0, body_s=60.0)
    connection = served.connect()
    for _ in range(3):
        connection.sendall(_BODY + b"a" * 100)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.read() == b"100"


def test_a_client_that_does_not_listen_is_left(serve: list[Served]) -> None:
    """What is made for it stops, when the system takes no more of it for so long."""
    served = begin(serve, stalled_s=0.5)
    connection = served.connect(b"GET /pour HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert served.is_left.wait(60)
    sent = served.sent
    assert is_hung_up_on(connection)
    assert served.sent == sent


def test_half_sent_requests_lock_nobody_out(serve: list[Served]) -> None:
    """Who came last has a place; the one that goes for it has waited longest."""
    served = begin(serve, head_s=60.0, body_s=60.0)
    waiting = [served.connect(_BODY if i % 2 else _HEAD) for i in range(40)]
    for _ in range(3):
        connection = served.connect(_BODY + b"a" * 100)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
    assert all(is_hung_up_on(one) for one in waiting[:30])


def test_a_server_with_few_files_answers_all_the_same(tmp_path: Path) -> None:
    """260 half-sent requests are more than such a process may open; and nothing fills the log."""
    with ServerProcess(
        "--no-torrents", "--context", "256", home=tmp_path, max_files=256
    ) as process:
        waiting = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(260)]
        for number, connection in enumerate(waiting):
            try:
                connection.sendall(_BODY if number % 2 else _HEAD)
            except OSError:  # it was let go by then
                pass
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
            connection.request("GET", "/health")
            assert json.loads(connection.getresponse().read())["status"] == "ok"
            connection.close()
        for one in waiting:
            one.close()
        process.process.terminate()
        assert process.process.stderr is not None
        assert process.process.stderr.read() == b""


def test_who_waits_longest_goes_first() -> None:
    """Of the same address, if it has too many; else of the one that has most."""
    idle = IdleConnections[str](replace(_LIMITS, max_idle=5, max_idle_per_address=3))
    assert [idle.add(f"a{i}", "a") for i in range(5)] == [None, None, None, "a0", "a1"]
    assert [idle.add(f"b{i}", "b") for i in range(3)] == [None, None, "a2"]
    assert idle.add("c0", "c") == "b0"
    idle.discard("a3")
    assert idle.add("c1", "c") is None and len(idle) == 5
    assert idle.add("c1", "c") is None and len(idle) == 5


def test_bounds_fit_into_what_a_process_may_open() -> None:
    for num_files in (64, 256, 1024, 1 << 16):
        limits = limits_for(36, num_files)
        assert 0 < limits.max_idle_per_address <= limits.max_idle < num_files - 8


def test_patience_is_for_the_whole_answer() -> None:
    """A slow reader has the time that its bytes need; what it wastes adds up."""
    patience = Patience(replace(_LIMITS, stalled_s=30.0, least_bytes_per_s=1000.0))
    assert patience.for_s(2000) == 32.0
    patience.take(2.0, 2000)
    assert patience.for_s(0) == 30.0
    patience.take(22.0, 2000)
    assert patience.for_s(2000) == 12.0
    patience.renew()
    assert patience.for_s(0) == 30.0
