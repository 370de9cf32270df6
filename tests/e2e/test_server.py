"""`bmrt serve` beyond the OpenAI client: cancellation, overload, health, metrics."""

import http.client
import json
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from commands import ServerProcess, bmrt

STORY: dict[str, Any] = {
    "model": "SmolLM2-135M-Instruct.Q4_1",
    "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
    "max_tokens": 900,
    "temperature": 0,
    # the end of the answer is made unlikely: it goes on until somebody stops it
    "logit_bias": {"2": -100, "0": -100},
}


def get(server: ServerProcess, path: str) -> str:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=120) as answer:
        return str(answer.read().decode())


def health(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(server, "/health"))
    return found


def eventually(condition: Callable[[], bool], *, timeout_s: float = 100.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def generated_tokens(server: ServerProcess) -> float:
    found = re.search(r"^bmrt_generated_tokens_total (\S+)", get(server, "/metrics"), re.MULTILINE)
    assert found
    return float(found[1])


@pytest.fixture
def idle(server: ServerProcess) -> Iterator[ServerProcess]:
    assert eventually(lambda: health(server)["active"] == 0)
    yield server
    assert eventually(lambda: health(server)["active"] == 0)


def ask(
    server: ServerProcess, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> socket.socket:
    """Sends a request and returns the connection without reading the answer."""
    raw = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=120)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
    connection.sendall(head.encode() + raw)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer(idle: ServerProcess, stream: bool) -> None:
    """Streaming or not: the session stops long before its 900 tokens."""
    before = generated_tokens(idle)
    with ask(idle, STORY | {"stream": stream}) as connection:
        assert eventually(lambda: health(idle)["active"] == 1)
        if stream:
            assert b"200 OK" in connection.recv(4096)
    assert eventually(lambda: health(idle)["active"] == 0)
    assert generated_tokens(idle) - before < 700


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/v1/messages"])
def test_a_client_of_another_dialect_that_leaves_ends_its_answer(
    idle: ServerProcess, path: str
) -> None:
    limits = {"max_tokens": 900, "options": {"num_predict": 900, "temperature": 0}}
    body = {"messages": STORY["messages"], "prompt": "Write a very long story.", **limits}
    before = generated_tokens(idle)
    with ask(idle, body | {"stream": True, "temperature": 0}, path) as connection:
        assert b"200 OK" in connection.recv(4096)
        assert b"{" in connection.recv(4096)
    assert eventually(lambda: health(idle)["active"] == 0)
    assert generated_tokens(idle) - before < 150


def test_a_waiting_client_that_leaves_gives_its_place_up(idle: ServerProcess) -> None:
    with ask(idle, STORY | {"stream": True}), ask(idle, STORY | {"stream": True}):
        assert eventually(lambda: health(idle)["active"] == 2)
        with ask(idle, STORY):
            assert eventually(lambda: health(idle)["waiting"] == 1)
        assert eventually(lambda: health(idle)["waiting"] == 0)


def test_overload_is_refused_within_a_bound(idle: ServerProcess) -> None:
    """Two are answered, one waits, the fourth is told 429 and when to come back."""
    with ask(idle, STORY | {"stream": True}), ask(idle, STORY | {"stream": True}):
        assert eventually(lambda: health(idle)["active"] == 2)
        with ask(idle, STORY | {"stream": True}) as third:
            assert eventually(lambda: health(idle)["waiting"] == 1)
            with ask(idle, STORY) as fourth:
                answer = http.client.HTTPResponse(fourth)
                answer.begin()
                assert answer.status == 429 and answer.headers["retry-after"]
                assert json.loads(answer.read())["error"]["code"] == "rate_limit_exceeded"
            assert health(idle)["waiting"] == 1
            third.close()
    assert eventually(lambda: health(idle)["active"] == 0)


def test_health_and_metrics(idle: ServerProcess, client: OpenAI) -> None:
    client.chat.completions.create(**(STORY | {"max_tokens": 3}))
    assert health(idle)["models"] == [STORY["model"]]
    metrics = get(idle, "/metrics")
    assert 'bmrt_requests_total{path="/v1/chat/completions",status="200"}' in metrics
    assert "bmrt_prefill_seconds_count" in metrics


def test_a_taken_port_is_one_clear_line(server: ServerProcess, tmp_path: Path) -> None:
    refused = bmrt("serve", "--port", str(server.port), home=tmp_path)
    assert refused.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}" in refused.stderr
    assert "--port" in refused.stderr and "Traceback" not in refused.stderr
