"""OpenAI's own client against `bmrt serve`, from another process."""

import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from commands import ServerProcess

MODEL = "SmolLM2-135M-Instruct.Q4_1"
HELLO: list[Any] = [{"role": "user", "content": "Write a long story about a fox."}]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 24}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "baremetalrt"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-9")
    assert refused.value.code == "model_not_found"


def test_a_stream_is_the_answer_in_pieces(client: OpenAI) -> None:
    """The same tokens, the same reason to end, and the same usage."""
    whole = client.chat.completions.create(messages=HELLO, **GREEDY)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None and whole.usage.completion_tokens == 24
    chunks = list(
        client.chat.completions.create(
            messages=HELLO, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    # Whose words they are is said with the first of them.
    assert [c.choices[0].delta.role for c in chunks[:2]] == ["assistant", None]
    assert chunks[0].choices[0].delta.content
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert len([p for p in pieces if p]) > 10
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None and chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 24
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_the_beginning_of_a_conversation_is_not_computed_twice(client: OpenAI) -> None:
    """The second turn finds all of the first in the cache, answer included."""
    first = client.chat.completions.create(messages=HELLO, **GREEDY)
    said = first.choices[0].message.content
    assert said is not None and first.usage is not None
    messages = [
        *HELLO,
        {"role": "assistant", "content": said},
        {"role": "user", "content": "Go on."},
    ]
    second = client.chat.completions.create(messages=messages, **GREEDY)
    assert second.usage is not None and second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert cached >= first.usage.prompt_tokens + first.usage.completion_tokens - 1


def test_stop_strings_end_the_answer_and_are_not_shown(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=HELLO, **GREEDY).choices[0].message.content
    assert whole is not None
    stop = whole[12:20]
    answer = client.chat.completions.create(messages=HELLO, stop=[stop, "never"], **GREEDY)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == whole[: whole.index(stop)]


def test_a_seed_reproduces_and_choices_differ(client: OpenAI) -> None:
    def sample(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, n=2, seed=seed, temperature=1.5, max_tokens=12
        )
        return [choice.message.content for choice in answer.choices]

    first = sample(7)
    assert first[0] != first[1]
    assert sample(7)[0] == first[0]
    assert sample(8) != first


def test_log_probabilities_belong_to_the_tokens(client: OpenAI) -> None:
    """Greedy choices are the likeliest; their bytes are the answer."""
    answer = client.chat.completions.create(
        messages=HELLO, logprobs=True, top_logprobs=5, **GREEDY
    ).choices[0]
    assert answer.logprobs is not None and answer.logprobs.content is not None
    tokens = answer.logprobs.content
    assert len(tokens) == 24
    assert b"".join(bytes(t.bytes or []) for t in tokens).decode() == answer.message.content
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 5
        assert token.logprob == max(t.logprob for t in token.top_logprobs)
        assert sum(math.exp(t.logprob) for t in token.top_logprobs) <= 1.0 + 1e-6


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_shapes_the_answer(client: OpenAI, stream: bool) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    arguments: dict[str, Any] = {
        "model": MODEL,
        "temperature": 1.2,
        # Without one, an answer now and then has no end within so many tokens.
        "seed": 1,
        "max_tokens": 120,
        "messages": [{"role": "user", "content": "Describe a person."}],
        "response_format": form,
    }
    if stream:
        chunks = client.chat.completions.create(stream=True, **arguments)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    else:
        text = client.chat.completions.create(**arguments).choices[0].message.content
    person = json.loads(text)
    assert set(person) == {"name", "age"}
    assert isinstance(person["name"], str) and isinstance(person["age"], int)


def test_a_json_object_is_one(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": 'Answer with {"ok": true} as JSON.'}],
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=200,
    ).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content or ""), dict)
    assert (answer.message.content or "").startswith("{")


def test_plain_completions(client: OpenAI) -> None:
    """Text, several texts, and token ids; streamed and whole."""
    prompt = "The capital of France is"
    one = client.completions.create(prompt=prompt, logprobs=2, **GREEDY)
    assert one.choices[0].logprobs is not None
    assert len(one.choices[0].logprobs.tokens or []) == 24
    pieces = client.completions.create(prompt=prompt, stream=True, **GREEDY)
    assert "".join(p.choices[0].text for p in pieces) == one.choices[0].text
    several = client.completions.create(prompt=[prompt, "One, two,"], **GREEDY)
    assert [c.index for c in several.choices] == [0, 1]
    assert several.usage is not None and several.usage.completion_tokens == 48
    ids = client.completions.create(prompt=[504, 3575, 282, 4649, 314], **GREEDY)
    assert ids.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_comes_back_with_its_probabilities(client: OpenAI, stream: bool) -> None:
    """As benchmark tools ask: what a text and its end are worth, with or without an answer."""
    prompt = "The capital of France is Paris"
    asked: dict[str, Any] = {"model": MODEL, "prompt": prompt, "temperature": 0, "logprobs": 1}
    whole = client.completions.create(max_tokens=3, **asked).choices[0]
    assert whole.logprobs is not None
    for max_tokens in (0, 3):
        answer: Any = client.completions.create(
            echo=True, stream=stream, max_tokens=max_tokens, **asked
        )
        pieces = [piece.choices[0] for piece in (answer if stream else [answer])]
        text = "".join(piece.text for piece in pieces)
        scored = [piece.logprobs for piece in pieces if piece.logprobs is not None]
        tokens = [token for one in scored for token in one.tokens]
        logprobs = [value for one in scored for value in one.token_logprobs]
        offsets = [offset for one in scored for offset in one.text_offset]
        assert text == prompt + (whole.text if max_tokens else "")
        assert pieces[-1].finish_reason == "length"
        assert len(logprobs) == len(tokens) == 6 + max_tokens
        assert logprobs[0] is None and all(value < 0 for value in logprobs[1:])
        assert "".join(tokens) == text and text[offsets[1] :].startswith(" capital")
        expected = (whole.logprobs.token_logprobs or [])[:max_tokens]
        assert logprobs[6:] == pytest.approx(expected, abs=0.02)
        # What the text says is what the model expects.
        assert logprobs[5] > -1


def test_sessions_at_once_answer_like_sessions_alone(client: OpenAI) -> None:
    """Two streams interleave; both say what they say alone."""
    prompts = ["List the days of the week.", "Count from one to ten."]

    def ask(prompt: str) -> str:
        message: Any = {"role": "user", "content": prompt}
        return (
            client.chat.completions.create(messages=[message], **GREEDY).choices[0].message.content
            or ""
        )

    alone = [ask(p) for p in prompts]
    together: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i, p=p: together.__setitem__(i, ask(p)))
        for i, p in enumerate(prompts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Sums in another order may tip a tie far into an answer, never at its start.
    assert [together[i][:24] for i in (0, 1)] == [text[:24] for text in alone]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"model": "gpt-9"}, "model_not_found"),
        ({"max_tokens": 0}, "request.invalid"),
        ({"temperature": -1}, None),
        ({"extra_body": {"temprature": 9}}, "request.invalid"),
        ({"messages": []}, "request.invalid"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "w" * 2_000_000}]}, "context_length_exceeded"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "template.no-tools"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "request.invalid",
        ),
    ],
)
def test_mistakes_are_named(client: OpenAI, arguments: dict[str, Any], code: str | None) -> None:
    """Status 400 or 404, OpenAI's shape, and a message for people."""
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        client.chat.completions.create(**({"messages": HELLO} | GREEDY | arguments))
    assert refused.value.type == "invalid_request_error"
    assert len(refused.value.message) > 20
    if code is not None:
        assert refused.value.code == code


def test_what_programs_send_that_were_written_for_other_servers(client: OpenAI) -> None:
    """Fields that mean something here do, and of those that do not, the client is told."""
    extra = {"n_predict": 5, "ignore_eos": True, "return_token_ids": True, "mirostat": 2}
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, temperature=1e-38, extra_body=extra
    )
    assert raw.headers["x-ignored-fields"] == "mirostat"
    answer = raw.parse()
    assert answer.usage is not None and answer.usage.completion_tokens == 5
    assert len(answer.choices[0].token_ids) == 5  # type: ignore[attr-defined]
    assert len(answer.prompt_token_ids) == answer.usage.prompt_tokens  # type: ignore[attr-defined]
    greedy = client.chat.completions.create(messages=HELLO, **(GREEDY | {"max_tokens": 5}))
    assert answer.choices[0].message.content == greedy.choices[0].message.content


@pytest.mark.parametrize("path", ["/", "/v1", "/chat/completions", "/v1/v1/models", "/api/x"])
def test_wrong_addresses_say_which_is_right(server: ServerProcess, path: str) -> None:
    try:
        with urllib.request.urlopen(server.url + path) as answer:
            status, said = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, said = error.code, error.read().decode()
    assert status == (200 if path in ("/", "/v1") else 404)
    assert "/v1 behind it as base URL" in said and "/v1/chat/completions" in said


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]
TEMPLATE = """{%- if tools %}<|im_start|>system
Call a tool by <tool_call>{"name": …, "arguments": {…}}</tool_call>. Tools: {{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{{ c.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with two keys, and a chat template that has tools."""
    home: Path = tmp_path_factory.mktemp("guarded")
    template = home / "tools.jinja"
    template.write_text(TEMPLATE)
    arguments = ("--context", "1024", "--chat-template", str(template))
    arguments += ("--api-key", "secret", "--api-key", "another")
    with ServerProcess(*arguments, home=home) as process:
        yield process


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool_is_called(guarded: ServerProcess, stream: bool) -> None:
    client = OpenAI(base_url=f"{guarded.url}/v1", api_key="secret", max_retries=0, timeout=240)
    arguments: dict[str, Any] = {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 80,
        "messages": [{"role": "user", "content": "How is the weather in Rome?"}],
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    if stream:
        with client.chat.completions.stream(**arguments) as events:
            pieces = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
            choice = events.get_final_completion().choices[0]
        # They come as they are written.
        assert len(pieces) > 2
        calls, reason = choice.message.tool_calls, choice.finish_reason
    else:
        choice = client.chat.completions.create(**arguments).choices[0]
        calls, reason = choice.message.tool_calls, choice.finish_reason
    assert reason == "tool_calls" and len(calls) == 1
    assert calls[0].function.name == "get_weather" and calls[0].id
    assert json.loads(calls[0].function.arguments)["city"] in ("Paris", "Rome")
    if not stream:
        answered = client.chat.completions.create(
            model=MODEL,
            max_tokens=8,
            tools=TOOLS,
            messages=[
                *arguments["messages"],
                choice.message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"},
            ],
        )
        assert answered.usage is not None and answered.usage.completion_tokens > 0


def test_who_has_one_key_is_told_nothing_of_who_has_another(guarded: ServerProcess) -> None:
    """A prompt word for word is as new to the second as to the first, who finds it again."""
    said = [{"role": "user", "content": "My number is 4711 and nobody else is to know it. " * 4}]

    def cached(key: str) -> int:
        with OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client:
            usage = client.chat.completions.create(model=MODEL, max_tokens=1, messages=said).usage
        assert usage is not None and usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    assert [cached(key) for key in ("secret", "another", "secret")][:2] == [0, 0]
    assert cached("secret") > 50 < cached("another")


def test_a_wrong_key_is_refused(guarded: ServerProcess) -> None:
    client = OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
