"""Requests that take much to be understood: they wait for their turn like others, and within bounds."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.session.grammar import from_gbnf, from_json_schema
from commands import ServerProcess

_CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One answer at a time, for two clients."""
    arguments = ("--api-key", "greedy", "--api-key", "other", "--parallel", "1", "--queue", "6")
    arguments += ("--no-torrents", "--context", "1024", "--threads", "1")
    home = tmp_path_factory.mktemp("home")
    with ServerProcess(
        *arguments, "--no-torrents", "--context", "1024", "--threads", "1", home=home
    ) as process:
        yield process


def ask(server: ServerProcess, key: str, **request: Any) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]} | request
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        connection.request("POST", _CHAT, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def health(server: ServerProcess) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
    try:
        connection.request("GET", "/health")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def large_grammar() -> str:
    """Of as many characters as are taken, nearly."""
    first = " | ".join(f"r{i}" for i in range(1000))
    rules = "\n".join(f'r{i} ::= "word{i}" [a-z]+' for i in range(1000))
    return f"root ::= {first}\n{rules}\n"


def test_a_grammar_is_bounded() -> None:
    """By its length, before anything is done with it; what fits is done within a moment."""
    words = " | ".join(f'"w{i:05d}"' for i in range(100_000))
    began_at = time.thread_time()
    for refused in (
        lambda: from_gbnf(f"root ::= {words}\n"),
        lambda: from_json_schema({"enum": [f"value{i}" for i in range(100_000)]}),
    ):
        with pytest.raises(UsageError, match="longer than"):
            refused()
    assert time.thread_time() - began_at < 5
    assert from_gbnf(large_grammar())


def test_requests_are_understood_in_their_turn(keyed: ServerProcess) -> None:
    """One that is broken waits as well; where the queue is full, nobody looks at what it says."""
    story = {"max_tokens": 900, "logit_bias": {"2": -100, "0": -100}, "stream": True}
    head = http.client.HTTPConnection("127.0.0.1", keyed.port, timeout=240)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer greedy"}
    messages = [{"role": "user", "content": "Write a very long story about the sea."}]
    head.request("POST", _CHAT, json.dumps({"messages": messages, **story}), headers)
    answer = head.getresponse()
    try:
        assert answer.status == 200
        answers: list[int] = []

        def broken() -> None:
            answers.append(ask(keyed, "greedy", grammar="(")[0])

        waiting = [threading.Thread(target=broken) for _ in range(6)]
        for one in waiting:
            one.start()
        while health(keyed)["waiting"] < 6:
            time.sleep(0.02)
        assert not answers
        assert ask(keyed, "greedy", grammar="(")[0] == 429
    finally:
        answer.close()
        head.close()
    for one in waiting:
        one.join(240)
    assert answers == [400] * 6


def test_who_asks_for_much_waits_for_itself(keyed: ServerProcess) -> None:
    """A plain question is next, whatever another client has asked for before."""
    done: list[str] = []

    def greedy() -> None:
        assert ask(keyed, "greedy", grammar=large_grammar())[0] == 200
        done.append("greedy")

    def other() -> None:
        assert ask(keyed, "other")[0] == 200
        done.append("other")

    many = [threading.Thread(target=greedy) for _ in range(6)]
    for one in many:
        one.start()
    while health(keyed)["waiting"] < 5:
        assert not done
        time.sleep(0.01)
    plain = threading.Thread(target=other)
    plain.start()
    for one in (*many, plain):
        one.join(240)
    # The one that was being answered as it came, and perhaps one that began meanwhile.
    assert done.index("other") <= 2 and len(done) == 7


def test_a_client_that_leaves_keeps_its_place_while_its_grammar_is_read(
    keyed: ServerProcess,
) -> None:
    """What nobody can stop still counts: leaving and asking again gets nobody more than a turn."""
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", keyed.port, timeout=240)
        body = {"messages": [{"role": "user", "content": "a"}], "grammar": large_grammar()}
        headers = {"Content-Type": "application/json", "Authorization": "Bearer greedy"}
        connection.request("POST", _CHAT, json.dumps(body), headers)
        connection.close()
    assert health(keyed)["active"] <= 1
    assert ask(keyed, "other")[0] == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 5}}},
        {"type": "string", "format": "uuid4"},
        {"type": "string", "pattern": "^(?=.*a).*$"},
        True,
        {"type": "string", "pattern": "^(" * 300 + "a" + ")$" * 300},
        {"$ref": "#"},
        {"allOf": [{"type": "object", "properties": {f"a{i}": {}}} for i in range(200)]},
        {"type": "array", "minItems": 10**9},
        {"const": "\ud83d"},
        {"enum": []},
        {"type": "number", "minimum": 1e308, "maximum": -1e308},
    ],
)
def test_a_schema_is_followed_or_refused(keyed: ServerProcess, schema: Any) -> None:
    """Whatever it says, it is no error of the server, and the answer has an end."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    status, answer = ask(keyed, "other", response_format=form, max_tokens=12, temperature=0)
    assert status in (200, 400), answer
    if status == 400:
        assert answer["error"]["message"]


def test_tokens_that_are_no_text_are_no_error(keyed: ServerProcess) -> None:
    """Half a character in a message is refused or replaced; in a name of a model, too."""
    half = {"role": "user", "content": "x \ud83d y"}
    assert ask(keyed, "other", messages=[half])[0] in (200, 400)
    assert ask(keyed, "other", model="\ud83d")[0] in (400, 404)
