"""What arrives on the port of `bmrt serve` need not be HTTP, nor JSON, nor sane."""

import http.client
import json
import socket
from pathlib import Path

import pytest

from commands import ServerProcess

COMPLETIONS = "/v1/completions"
_POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(autouse=True)
def still_answers(server: ServerProcess):  # type: ignore[no-untyped-def]
    """After every attack the server is the same process, idle, and answers."""
    yield
    status, body = post(server, json.dumps({"prompt": "One, two,", "max_tokens": 2}).encode())
    assert status == 200 and body["usage"]["completion_tokens"] == 2
    assert server.process.poll() is None


def post(
    server: ServerProcess, body: bytes, *, path: str = COMPLETIONS, host: str = "localhost"
) -> tuple[int, dict]:  # type: ignore[type-arg]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        connection.request("POST", path, body, {"Host": host, "Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"prompt": "\xc3\x28"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "max_tokens": -2}',
        b'{"prompt": "a", "max_tokens": 1.5}',
        b'{"prompt": "a", "top_p": "all"}',
        b'{"prompt": "a", "n": 100000}',
        b'{"prompt": "a", "seed": 1e400}',
        b'{"prompt": "a", "logit_bias": {"x": 1}}',
        b'{"prompt": "a", "logit_bias": {"99999999999999999999": 1}}',
        b'{"prompt": [1, -5, 3]}',
        b'{"prompt": [99999999]}',
        b'{"prompt": [123456789012345678901234567890]}',
        b'{"prompt": []}',
        b'{"prompt": ""}',
        b'{"prompt": [[]]}',
        b'{"prompt": "a", "stop": ["x", 1]}',
        b'{"prompt": "a", "stop": ' + json.dumps(["s"] * 5000).encode() + b"}",
        b'{"prompt": "a", "grammar": "root ::= root"}',
        b'{"prompt": "a", "grammar": "("}',
        b'{"prompt": "a", "max_tokns": 1}',
        b"[" * 100_000,
        b'{"prompt": ' * 50_000,
        b'{"prompt": "a", "user": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)
def test_bad_json_is_refused(server: ServerProcess, body: bytes) -> None:
    """Status 400, OpenAI's shape, one message."""
    status, answer = post(server, body)
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]


def test_numbers_without_end_are_text(server: ServerProcess) -> None:
    """Arguments of a tool, in what was said before, that Python would not read as a number."""
    call = {"name": "f", "arguments": '{"x": ' + "1" * 5000 + "}"}
    called = {"id": "1", "type": "function", "function": call}
    request = {
        "max_tokens": 2,
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "1", "content": "b"},
        ],
    }
    status, answer = post(server, json.dumps(request).encode(), path="/v1/chat/completions")
    assert status == 200, answer


@pytest.mark.parametrize("name", ["messages", "tools", "bos_token", "eos_token"])
def test_variables_of_a_template_do_not_replace_what_was_asked(
    server: ServerProcess, name: str
) -> None:
    request = {
        "max_tokens": 2,
        "messages": [{"role": "user", "content": "a"}],
        "chat_template_kwargs": {name: "x"},
    }
    status, answer = post(server, json.dumps(request).encode(), path="/v1/chat/completions")
    assert status == 400 and answer["error"]["param"] == "chat_template_kwargs"


def test_a_lone_surrogate_is_text(server: ServerProcess) -> None:
    """JSON can write what UTF-8 cannot; it is read as a replacement, not as a crash."""
    status, answer = post(server, b'{"prompt": "a \\ud800 b", "max_tokens": 2}')
    assert status in (200, 400), answer


def test_a_long_body_is_refused(server: ServerProcess) -> None:
    status, answer = post(server, b'{"prompt": "' + b"a" * (17 * 2**20) + b'"}')
    assert status == 413 and answer["error"]["message"]


def test_another_name_for_this_host_is_refused(server: ServerProcess) -> None:
    """A web page that points its own name at 127.0.0.1 gets nothing."""
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil"):
        assert post(server, b'{"prompt": "a"}', host=host)[0] == 403


def ask(port: int, method: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of a completion that a page of the web asks for."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, COMPLETIONS, b'{"prompt": "a", "max_tokens": 1}', named)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answer.read().decode(), found
    finally:
        connection.close()


@pytest.mark.parametrize("kind", ["text/plain", "application/json", None])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_a_page_of_the_web_cannot_have_this_machine_compute(
    server: ServerProcess, origin: str, kind: str | None
) -> None:
    """Whatever it says that it sends; the refusal says how its owner lets it."""
    headers = {"Origin": origin} | ({"Content_Type": kind} if kind else {})
    status, body, found = ask(server.port, "POST", **headers)
    assert status == 403 and f"--allow-origin {origin}" in body
    assert "access-control-allow-origin" not in found
    assert (
        ask(server.port, "OPTIONS", Origin=origin, Access_Control_Request_Method="POST")[0] != 200
    )


def test_what_pages_send_without_asking_is_not_read(server: ServerProcess) -> None:
    """Forms and plain text, from no page that says so; JSON by any of its names is."""
    for kind in ("text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"):
        status, body, _ = ask(server.port, "POST", Content_Type=kind)
        assert status == 415 and "application/json" in body
    for kind in ("application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"):
        assert ask(server.port, "POST", Content_Type=kind)[0] == 200
    own = f"http://127.0.0.1:{server.port}"
    assert ask(server.port, "POST", Origin=own, Content_Type="application/json")[0] == 200


def test_pages_and_names_that_are_meant_are_let_in(tmp_path: Path) -> None:
    """With the question that browsers ask first, and only those."""
    page = "https://page.example"
    arguments = ("--allow-origin", page, "--allow-host", "host.docker.internal")
    with ServerProcess(*arguments, "--context", "512", home=tmp_path) as process:
        asked = {
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "authorization,content-type",
        }
        status, _, found = ask(process.port, "OPTIONS", Origin=page, **asked)
        assert status == 200 and found["access-control-allow-origin"] == page
        assert "authorization" in found["access-control-allow-headers"].lower()
        status, _, found = ask(process.port, "POST", Origin=page, Content_Type="application/json")
        assert status == 200 and found["access-control-allow-origin"] == page
        assert ask(process.port, "POST", Origin="https://other.example")[0] == 403
        host = f"host.docker.internal:{process.port}"
        assert ask(process.port, "POST", Host=host, Content_Type="application/json")[0] == 200
        status, body, _ = ask(process.port, "POST", Host="other.internal")
        assert status == 403 and "--allow-host other.internal" in body


def test_paths_and_methods(server: ServerProcess) -> None:
    for method, path, expected in (
        ("POST", "/", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", COMPLETIONS, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/" + "a" * 4000, 404),
        ("GET", "/v1/models/%00%ff", 404),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        connection.request(method, path, headers={"Host": "localhost"})
        answer = connection.getresponse()
        assert answer.status == expected, path
        assert "error" in json.loads(answer.read())
        connection.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\0" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        _POST + b"Content-Length: -5\r\n\r\n",
        _POST + b"Content-Length: 9999999999999\r\n\r\n{",
        _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n0\r\n\r\n",
        _POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
        _POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_bad_http_ends_the_connection_at_most(server: ServerProcess, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:  # it hung up first
            pass
