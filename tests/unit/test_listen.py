"""Why a server does not begin is said as it is."""

import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.node.node import Node
from baremetalrt.node.options import ModelOptions
from baremetalrt.serve.app import Server, ServerConfig
from baremetalrt.serve.idle_connections import limits_for
from baremetalrt.serve.listen import bind, listen


@pytest.fixture
def node() -> Iterator[Node]:
    handler = signal.getsignal(signal.SIGTERM)
    node = Node(ModelOptions(), serves=True)
    yield node
    node.close()
    signal.signal(signal.SIGTERM, handler)


@asynccontextmanager
async def _failing(error: Exception) -> AsyncIterator[None]:
    raise error
    yield


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), CapacityError("no room")])
def test_what_failed_at_the_beginning_is_what_is_raised(node: Node, error: Exception) -> None:
    """A bug keeps its trace: nobody is asked whether another server is running there."""
    sockets = bind("127.0.0.1", 0)
    server = Server(node, ServerConfig(), services=[_failing(error)])
    with pytest.raises(type(error)) as caught:
        listen(server.application(), sockets, limits_for(4, 256), announce=lambda *_: None)
    assert caught.value is error
    assert any(entry.name == "_failing" for entry in caught.traceback)
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    ("host", "hint"),
    [("127.0.0.1", "another server"), ("192.0.2.1", "no such address"), ("a" * 300, "--host")],
)
def test_an_address_that_cannot_be_had_is_told_from_others(host: str, hint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            bind(host, port)
    assert caught.value.code == "server.address" and hint in str(caught.value.hint)


def test_every_address_of_a_host_is_taken() -> None:
    """And the one of no host at all is that of this machine, on all its networks."""
    for host in ("localhost", "127.0.0.1", ""):
        sockets = bind(host, 0)
        assert sockets
        for one in sockets:
            one.close()
