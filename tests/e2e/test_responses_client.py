"""OpenAI's own client with its Responses API against `bmrt serve`, from another process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from commands import ServerProcess

MODEL = "SmolLM2-135M-Instruct.Q4_1"
STORY = "Write a long story about a fox."
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for t in m.tool_calls or [] %}<tool_call>{{ t.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
}


@pytest.fixture(scope="module")
def with_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A template that knows tools, and two keys."""
    home = tmp_path_factory.mktemp("home")
    template = home / "tools.jinja"
    template.write_text(TEMPLATE)
    keys = ("--api-key", "one", "--api-key", "two")
    arguments = ("--context", "1024", *keys, "--chat-template", str(template))
    with ServerProcess(*arguments, home=Path(home)) as process:
        yield process


def _client(server: ServerProcess, key: str = "unused") -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=240)


def test_a_response_is_what_chat_answers(client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": STORY},
    ]
    expected = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=24
    )
    response = client.responses.create(input=STORY, instructions="Be brief.", **GREEDY)
    assert response.output_text == expected.choices[0].message.content
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None and expected.usage is not None
    assert response.usage.input_tokens == expected.usage.prompt_tokens
    assert response.usage.output_tokens == 24
    with client.responses.stream(input=STORY, instructions="Be brief.", **GREEDY) as stream:
        events = list(stream)
    final: Any = events[-1]
    assert final.response.output_text == response.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert sum(event.type == "response.output_text.delta" for event in events) > 10
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"


def test_a_conversation_goes_on_from_a_response(client: OpenAI) -> None:
    """By its name, by its steps' names, and with everything said again: all the same."""
    first = client.responses.create(input=STORY, **GREEDY)
    more: Any = {"role": "user", "content": "And then?"}
    by_name = client.responses.create(input="And then?", previous_response_id=first.id, **GREEDY)
    steps: list[Any] = [step.model_dump() for step in first.output]
    asked: Any = {"role": "user", "content": [{"type": "input_text", "text": STORY}]}
    in_full = client.responses.create(input=[asked, *steps, more], **GREEDY)
    references: list[Any] = [{"type": "item_reference", "id": first.output[0].id}]
    by_reference = client.responses.create(input=[asked, *references, more], **GREEDY)
    assert by_name.output_text == in_full.output_text == by_reference.output_text
    assert by_name.usage is not None and in_full.usage is not None
    assert by_name.usage.input_tokens == in_full.usage.input_tokens
    assert by_name.previous_response_id == first.id
    assert client.responses.retrieve(first.id).output_text == first.output_text
    (item,) = client.responses.input_items.list(first.id).data
    assert item.type == "message" and STORY in str(item.content)
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.create(input="x", previous_response_id=first.id, **GREEDY)
    assert gone.value.param == "previous_response_id" and first.id in gone.value.message


def test_a_response_that_is_not_to_be_stored_is_not(client: OpenAI) -> None:
    response = client.responses.create(input=STORY, store=False, **GREEDY)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_nobody_goes_on_from_what_another_key_asked(with_tools: ServerProcess) -> None:
    with _client(with_tools, "one") as one, _client(with_tools, "two") as two:
        response = one.responses.create(input=STORY, **GREEDY)
        assert one.responses.retrieve(response.id).id == response.id
        for ask in (
            lambda: two.responses.retrieve(response.id),
            lambda: two.responses.delete(response.id),
            lambda: two.responses.input_items.list(response.id),
            lambda: two.responses.create(input="x", previous_response_id=response.id, **GREEDY),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()


class _Fox(BaseModel):
    name: str
    age: int


def test_a_schema_shapes_the_answer(client: OpenAI) -> None:
    response = client.responses.parse(
        model=MODEL, input="A fox, as JSON.", temperature=0, text_format=_Fox, max_output_tokens=60
    )
    assert response.status == "completed" and isinstance(response.output_parsed, _Fox)


def test_log_probabilities(client: OpenAI) -> None:
    response = client.responses.create(
        input=STORY, include=["message.output_text.logprobs"], top_logprobs=2, **GREEDY
    )
    message = response.output[0]
    assert message.type == "message" and message.content[0].type == "output_text"
    logprobs = message.content[0].logprobs
    assert logprobs is not None and len(logprobs) == 24 and len(logprobs[0].top_logprobs) == 2
    assert "".join(one.token for one in logprobs).strip() == response.output_text.strip()


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_read(with_tools: ServerProcess, stream: bool) -> None:
    asked: dict[str, Any] = GREEDY | {"max_output_tokens": 60, "tools": [WEATHER]}
    choice: Any = {"type": "function", "name": "get_weather"}
    with _client(with_tools, "one") as client:
        if stream:
            with client.responses.stream(input=STORY, tool_choice=choice, **asked) as events:
                written = [e for e in events if e.type == "response.function_call_arguments.done"]
                response = events.get_final_response()
            assert written
        else:
            response = client.responses.create(input=STORY, tool_choice=choice, **asked)
        (call,) = response.output
        assert call.type == "function_call" and call.name == "get_weather"
        assert list(json.loads(call.arguments)) == ["city"] and response.status == "completed"
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        again = client.responses.create(input=[result], previous_response_id=response.id, **asked)
        assert again.usage is not None and response.usage is not None
        assert again.usage.input_tokens > response.usage.input_tokens + 20


def test_a_tool_that_takes_plain_text(with_tools: ServerProcess) -> None:
    """And tools of other servers beside it, as agents send them."""
    tools: list[Any] = [{"type": "custom", "name": "shell"}, {"type": "web_search"}]
    with _client(with_tools, "one") as client:
        response = client.responses.create(
            input="List my files.",
            tools=tools,
            tool_choice={"type": "custom", "name": "shell"},
            **(GREEDY | {"max_output_tokens": 400}),
        )
        (call,) = response.output
        assert call.type == "custom_tool_call" and call.name == "shell"
        assert not call.input.startswith("{")


@pytest.mark.parametrize(
    "arguments",
    [
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": [{"type": "computer_call", "id": "x"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": "w " * 4000},
        {"background": True},
        {"temperature": -1},
        {"tools": [WEATHER]},
        {"tool_choice": {"type": "web_search"}},
        {"text": {"format": {"type": "json_schema", "name": "x"}}},
    ],
)
def test_mistakes_are_named(client: OpenAI, arguments: dict[str, Any]) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        client.responses.create(**({"input": STORY} | GREEDY | arguments))
    assert len(refused.value.message) > 20 and refused.value.code
