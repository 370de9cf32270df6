"""What editors and agents send, as they send it: fields, headers and tools of theirs, words of ours.

Source: the public code of each program, and what its users have published of its requests.
"""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ServerProcess

REQUESTS = sorted((Path(__file__).parent.parent / "data" / "requests").glob("*.json"))
MODEL = "talking"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for t in m.tool_calls or [] %}<tool_call>{{ t.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def tools_server(
    talking_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A tiny model with a template that knows tools."""
    home = tmp_path_factory.mktemp("recorded")
    template = home / "tools.jinja"
    template.write_text(TEMPLATE)
    arguments = ("--context", "1024", "--threads", "1", "--chat-template", str(template))
    with ServerProcess(str(talking_model), *arguments, home=home) as process:
        yield process


def _events(said: bytes) -> Events:
    """Server-sent events, each by the name that it says it has."""
    found = []
    for one in said.decode().split("\n\n"):
        lines = [line for line in one.splitlines() if line and not line.startswith(":")]
        if not lines or lines == ["data: [DONE]"]:
            continue
        event = json.loads(lines[-1].removeprefix("data: "))
        assert lines[:-1] in ([], [f"event: {event.get('type')}"])
        found.append(event)
    return found


def _check_chat(said: bytes, asked: dict[str, Any]) -> None:
    assert said.endswith(b"data: [DONE]\n\n")
    chunks = _events(said)
    if (asked.get("stream_options") or {}).get("include_usage"):
        last = chunks.pop()
        assert last["choices"] == [] and last["usage"]["total_tokens"] > 0
    choices = [chunk["choices"][0] for chunk in chunks]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [c["delta"]["role"] for c in choices if "role" in c["delta"]] == ["assistant"]
    ends = [c["finish_reason"] for c in choices if c["finish_reason"]]
    assert len(ends) == 1 and choices[-1]["finish_reason"] in ("stop", "length", "tool_calls")


def _check_messages(said: bytes, asked: dict[str, Any]) -> None:
    events = _events(said)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    begun = [e["index"] for e in events if e["type"] == "content_block_start"]
    ended = [e["index"] for e in events if e["type"] == "content_block_stop"]
    assert begun == ended == list(range(len(begun))) and begun
    assert events[-2]["delta"]["stop_reason"] in ("end_turn", "max_tokens", "tool_use")
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    if asked.get("output_config", {}).get("format"):
        whole = json.loads("".join(delta["text"] for delta in deltas))
        assert list(whole) == ["title"]
    if (asked.get("tool_choice") or {}).get("type") == "any":
        block = next(e["content_block"] for e in events if e["type"] == "content_block_start")
        assert block["type"] == "tool_use"
        assert block["name"] in [tool["name"] for tool in asked["tools"]]


def _check_responses(said: bytes, asked: dict[str, Any]) -> None:
    events = _events(said)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    assert events[-1]["response"]["output"]


def _check_lines(said: bytes, asked: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["done_reason"] in ("stop", "length") and lines[-1]["eval_count"] > 0
    assert all(line["model"] == MODEL for line in lines)
    assert all(("message" in line) == ("messages" in asked) for line in lines)


CHECKS: dict[str, Callable[[bytes, dict[str, Any]], None]] = {
    "/v1/chat/completions": _check_chat,
    "/v1/messages": _check_messages,
    "/v1/responses": _check_responses,
    "/api/chat": _check_lines,
    "/api/generate": _check_lines,
}
WHOLE = {
    "/v1/chat/completions": "choices",
    "/v1/messages": "content",
    "/v1/messages/count_tokens": "input_tokens",
}


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_it_is_answered_as_its_dialect_says(path: Path, tools_server: ServerProcess) -> None:
    """Status 200, and a stream that its program can read to the end."""
    recorded = json.loads(path.read_text().replace('"MODEL', f'"{MODEL}'))
    asked, address = recorded["body"], recorded["path"].partition("?")[0]
    http = urllib.request.Request(
        tools_server.url + recorded["path"],
        json.dumps(asked).encode(),
        {"content-type": "application/json", **recorded["headers"]},
    )
    with urllib.request.urlopen(http, timeout=240) as answer:
        said = answer.read()
        assert answer.status == 200 and "content-encoding" not in answer.headers
    if asked.get("stream"):
        CHECKS[address](said, asked)
    else:
        assert json.loads(said)[WHOLE[address]]


def test_an_editor_finds_the_models_that_it_lists(tools_server: ServerProcess) -> None:
    """VS Code asks for the release, the list, and of each model what it can do."""

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        kind = {"content-type": "application/json"}
        http = urllib.request.Request(tools_server.url + path, data, kind)
        with urllib.request.urlopen(http, timeout=60) as answer:
            return json.load(answer)

    release = [int(part) for part in ask("/api/version")["version"].split(".")]
    assert release >= [0, 6, 4]
    (listed,) = ask("/api/tags")["models"]
    about = ask("/api/show", {"model": listed["model"]})
    info = about["model_info"]
    assert "tools" in about["capabilities"] and info["general.basename"] == MODEL
    assert info[f"{info['general.architecture']}.context_length"] > 0


def test_whether_a_server_is_there_is_asked_without_a_body(tools_server: ServerProcess) -> None:
    """Claude Code and Ollama's clients ask so before anything else."""
    http = urllib.request.Request(f"{tools_server.url}/", method="HEAD")
    with urllib.request.urlopen(http, timeout=60) as answer:
        assert answer.status == 200 and answer.read() == b""
