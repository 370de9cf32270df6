"""Ollama's own client against `bmrt serve`, from another process."""

import json
import urllib.request
from typing import Any

import pytest
from ollama import Client, ResponseError
from openai import OpenAI

from commands import ServerProcess

MODEL = "SmolLM2-135M-Instruct.Q4_1"
HELLO: list[Any] = [{"role": "user", "content": "Write a long story about a fox."}]
GREEDY = {"temperature": 0, "num_predict": 24}


@pytest.fixture
def ollama_client(server: ServerProcess) -> Client:
    return Client(host=server.url, timeout=240)


@pytest.fixture(scope="module")
def expected(server: ServerProcess) -> str:
    """What the same question is answered in OpenAI's words."""
    client = OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=240)
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0, max_tokens=24
    )
    return answer.choices[0].message.content or ""


def test_a_chat_is_the_same_in_either_dialect(ollama_client: Client, expected: str) -> None:
    whole = ollama_client.chat(MODEL, HELLO, options=GREEDY)
    assert whole.message.content == expected and whole.message.role == "assistant"
    assert whole.done and whole.done_reason == "length"
    assert whole.eval_count == 24 and (whole.prompt_eval_count or 0) > 5
    assert (whole.total_duration or 0) >= (whole.eval_duration or 0) > 0
    lines = list(ollama_client.chat(f"{MODEL}:latest", HELLO, options=GREEDY, stream=True))
    assert len(lines) > 10 and [line.done for line in lines[-2:]] == [False, True]
    assert "".join(line.message.content or "" for line in lines) == expected
    assert lines[-1].eval_count == 24


def test_a_prompt_is_a_chat_of_one_turn_unless_it_is_raw(
    ollama_client: Client, expected: str
) -> None:
    answer = ollama_client.generate(MODEL, HELLO[0]["content"], options=GREEDY)
    assert answer.response == expected and answer.done_reason == "length"
    raw = ollama_client.generate(MODEL, "Once upon a", raw=True, options=GREEDY)
    assert raw.response and raw.response != expected and raw.eval_count == 24
    lines = list(
        ollama_client.generate(MODEL, "Once upon a", raw=True, options=GREEDY, stream=True)
    )
    assert "".join(line.response for line in lines) == raw.response


def test_without_a_prompt_a_model_is_loaded(ollama_client: Client) -> None:
    assert ollama_client.generate(MODEL, "").done_reason == "load"
    assert ollama_client.chat(MODEL, []).done_reason == "load"


def test_a_format_shapes_the_answer(ollama_client: Client) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = ollama_client.chat(MODEL, HELLO, format=schema, options=GREEDY | {"num_predict": 60})
    assert isinstance(json.loads(answer.message.content or "")["n"], int)


def test_models_are_listed_and_described(ollama_client: Client, server: ServerProcess) -> None:
    (model,) = ollama_client.list().models
    assert model.model == MODEL and (model.size or 0) > 50_000_000
    assert model.details is not None
    assert (model.details.family, model.details.parameter_size) == ("llama", "135M")
    assert model.details.quantization_level == "Q4_1"
    (running,) = ollama_client.ps().models
    assert running.model == MODEL and running.context_length == 1024
    shown = ollama_client.show(MODEL)
    assert shown.capabilities == ["completion"] and "<|im_start|>" in (shown.template or "")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    with urllib.request.urlopen(f"{server.url}/api/version") as answer:
        assert json.loads(answer.read())["version"].count(".") == 2


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        (lambda c: c.chat("gpt-9", HELLO), 404, "not served here"),
        (lambda c: c.show("gpt-9"), 404, "not served here"),
        (lambda c: c.chat(MODEL, HELLO, options={"temperature": -1}), 400, "temperature"),
        (lambda c: c.chat(MODEL, [{"role": "nobody", "content": ""}]), 400, "role"),
        (lambda c: c.generate(MODEL, "w" * 2_000_000), 400, "maximum context length"),
        (lambda c: c.generate(MODEL, "x", suffix="y"), 400, "fill a gap"),
        (
            lambda c: c.chat(MODEL, [{"role": "user", "content": "", "images": ["aGk="]}]),
            400,
            "images",
        ),
    ],
)
def test_mistakes_are_named(ollama_client: Client, call: Any, status: int, said: str) -> None:
    with pytest.raises(ResponseError, match=said) as refused:
        call(ollama_client)
    assert refused.value.status_code == status


def test_an_error_in_the_middle_is_the_last_line(ollama_client: Client) -> None:
    with pytest.raises(ResponseError, match="maximum context length"):
        list(ollama_client.chat(MODEL, [{"role": "user", "content": "w " * 4000}], stream=True))
