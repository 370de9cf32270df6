"""Anthropic's own client against `bmrt serve`, from another process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel

from commands import ServerProcess

MODEL = "SmolLM2-135M-Instruct.Q4_1"
HELLO: list[Any] = [{"role": "user", "content": "Write a long story about a fox."}]
GREEDY: dict[str, Any] = {"model": MODEL, "extra_body": {"temperature": 0}, "max_tokens": 24}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for t in m.tool_calls or [] %}<tool_call>{{ t.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS: list[Any] = [
    {
        "name": "get_weather",
        "description": "Weather of a city.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    }
]


@pytest.fixture
def claude(server: ServerProcess) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="unused", max_retries=0, timeout=240) as client:
        yield client


@pytest.fixture(scope="module")
def with_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A template that knows tools, and a key."""
    home = tmp_path_factory.mktemp("home")
    template = home / "tools.jinja"
    template.write_text(TEMPLATE)
    arguments = ("--context", "1024", "--api-key", "secret", "--chat-template", str(template))
    with ServerProcess(*arguments, home=Path(home)) as process:
        yield process


def test_a_message_is_the_same_in_either_dialect(claude: Anthropic, server: ServerProcess) -> None:
    other = OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=240)
    expected = other.chat.completions.create(messages=HELLO, **GREEDY)
    whole = claude.messages.create(messages=HELLO, **GREEDY)
    (block,) = whole.content
    assert block.type == "text" and block.text == expected.choices[0].message.content
    assert (whole.role, whole.stop_reason, whole.model) == ("assistant", "max_tokens", MODEL)
    usage = whole.usage
    assert usage.output_tokens == 24 and expected.usage is not None
    cached = usage.cache_read_input_tokens or 0
    assert usage.input_tokens + cached == expected.usage.prompt_tokens
    with claude.messages.stream(messages=HELLO, **GREEDY) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 10 and "".join(pieces) == block.text
    assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 24


def test_a_system_text_and_blocks_are_read(claude: Anthropic) -> None:
    plain = claude.messages.count_tokens(model=MODEL, messages=HELLO, system="Be brief.")
    blocks = [{"type": "text", "text": HELLO[0]["content"], "cache_control": {"type": "ephemeral"}}]
    system: list[Any] = [{"type": "text", "text": "Be brief."}]
    other = claude.messages.count_tokens(
        model=MODEL, messages=[{"role": "user", "content": blocks}], system=system
    )
    assert plain.input_tokens == other.input_tokens
    without = claude.messages.count_tokens(
        model=MODEL, messages=HELLO, system=[{"type": "text", "text": "Be very, very brief."}]
    )
    assert without.input_tokens > plain.input_tokens


def test_a_stop_sequence_is_named(claude: Anthropic) -> None:
    whole = claude.messages.create(messages=HELLO, **GREEDY).content[0]
    assert whole.type == "text"
    stop = whole.text[12:20]
    answer = claude.messages.create(messages=HELLO, stop_sequences=["never", stop], **GREEDY)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)


class _Fox(BaseModel):
    name: str
    age: int


def test_a_schema_shapes_the_answer(claude: Anthropic) -> None:
    """By the name that it has, and by that of the beta."""
    limits: dict[str, Any] = GREEDY | {"max_tokens": 60}
    asked: list[Any] = [{"role": "user", "content": "A fox, as JSON."}]
    message = claude.messages.parse(messages=asked, output_format=_Fox, **limits)
    assert isinstance(message.parsed_output, _Fox)
    schema = _Fox.model_json_schema() | {"additionalProperties": False}
    form = {"type": "json_schema", "schema": schema}
    limits["extra_body"] = limits["extra_body"] | {"output_format": form}
    (block,) = claude.messages.create(messages=asked, **limits).content
    assert block.type == "text" and _Fox.model_validate_json(block.text) == message.parsed_output


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_read(with_tools: ServerProcess, stream: bool) -> None:
    """As agents do it: a call, what came of it, and the conversation goes on."""
    asked: dict[str, Any] = GREEDY | {"max_tokens": 60, "tools": TOOLS}
    choice: Any = {"type": "tool", "name": "get_weather"}
    with Anthropic(base_url=with_tools.url, api_key="secret", max_retries=0, timeout=240) as claude:
        if stream:
            with claude.messages.stream(messages=HELLO, tool_choice=choice, **asked) as events:
                answer = events.get_final_message()
        else:
            answer = claude.messages.create(messages=HELLO, tool_choice=choice, **asked)
        assert answer.stop_reason == "tool_use"
        (call,) = [block for block in answer.content if block.type == "tool_use"]
        assert call.name == "get_weather" and list(call.input) == ["city"]  # type: ignore[call-overload]
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        history: list[Any] = [
            *HELLO,
            {"role": "assistant", "content": [block.model_dump() for block in answer.content]},
            {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
        ]
        count = claude.messages.count_tokens(model=MODEL, messages=history, tools=TOOLS)
        without = claude.messages.count_tokens(model=MODEL, messages=HELLO, tools=TOOLS)
        assert count.input_tokens > without.input_tokens + 20
        again = claude.messages.create(messages=history, **(asked | {"max_tokens": 4}))
        assert again.usage.output_tokens == 4


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": "claude-9"}, anthropic.NotFoundError),
        ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError),
        ({"messages": [{"role": "user", "content": "w " * 4000}]}, anthropic.BadRequestError),
        ({"messages": [{"role": "nobody", "content": "x"}]}, anthropic.BadRequestError),
        ({"tools": [{"type": "web_search_20250305", "name": "web"}]}, anthropic.BadRequestError),
        ({"extra_body": {"output_format": {"type": "text"}}}, anthropic.BadRequestError),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            anthropic.BadRequestError,
        ),
    ],
)
def test_mistakes_are_named(
    claude: Anthropic, arguments: dict[str, Any], error: type[anthropic.APIStatusError]
) -> None:
    with pytest.raises(error) as refused:
        claude.messages.create(**({"messages": HELLO} | GREEDY | arguments))
    body: Any = refused.value.body
    assert body["type"] == "error" and len(body["error"]["message"]) > 20
    assert body["error"]["type"] in ("not_found_error", "invalid_request_error")


def test_a_wrong_key_is_refused(with_tools: ServerProcess) -> None:
    with (
        Anthropic(base_url=with_tools.url, api_key="wrong", max_retries=0) as claude,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        claude.messages.create(messages=HELLO, **GREEDY)
    assert "authentication_error" in json.dumps(refused.value.body)
