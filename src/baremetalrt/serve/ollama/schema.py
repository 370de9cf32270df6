"""Requests of Ollama's clients, and what they are in OpenAI's words.

Fields that mean nothing here (`options.num_ctx`, `options.num_gpu` …) are left out: the
server that they were written for takes any.
"""

import json
from typing import Any, Final, TypeVar

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import parse_duration
from baremetalrt.serve.decoding import convert
from baremetalrt.serve.openai.schema import ChatRequest, CompletionRequest

_SAMPLING: Final = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "repeat_last_n",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
}
# `num_predict` below zero is no limit: -1 until the end, -2 until the context is full.
_NO_LIMIT: Final = -1


class CalledFunction(msgspec.Struct):
    name: str
    arguments: dict[str, Any] = {}


class Call(msgspec.Struct):
    function: CalledFunction
    id: str = ""


class Message(msgspec.Struct):
    role: str
    content: str = ""
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Request(msgspec.Struct, kw_only=True):
    model: str = ""
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: int | float | str | None = None


class OllamaChat(_Request, kw_only=True):
    messages: list[Message] = []
    tools: list[dict[str, Any]] | None = None


class OllamaGenerate(_Request, kw_only=True):
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    images: list[Any] | None = None
    raw: bool = False


class OllamaShow(msgspec.Struct):
    model: str = ""
    name: str = ""


class OllamaPull(msgspec.Struct):
    model: str = ""
    name: str = ""
    stream: bool | None = None


C = TypeVar("C", ChatRequest, CompletionRequest)


def keep_alive_of(request: OllamaChat | OllamaGenerate) -> float | None:
    """How many seconds the model is to stay after its last use; raises `UsageError`."""
    asked = request.keep_alive
    return None if asked is None else parse_duration(str(asked))


def as_chat(request: OllamaChat) -> ChatRequest:
    """The same in OpenAI's words; raises `UsageError`."""
    fields: dict[str, Any] = {
        "messages": [_message(message) for message in request.messages],
        "tools": request.tools or None,
    }
    return _converted(request, fields, ChatRequest)


def generate_as_chat(request: OllamaGenerate) -> ChatRequest:
    """A prompt, with a system text or without, as a conversation; raises `UsageError`."""
    _refuse_images(request.images)
    system = [{"role": "system", "content": request.system}] if request.system else []
    messages = [*system, {"role": "user", "content": request.prompt}]
    return _converted(request, {"messages": messages}, ChatRequest)


def generate_as_completion(request: OllamaGenerate) -> CompletionRequest:
    """A text that is to go on as it stands, or with a gap to fill; raises `UsageError`."""
    fields: dict[str, Any] = {"prompt": request.prompt, "suffix": request.suffix or None}
    return _converted(request, fields, CompletionRequest)


def _converted(request: _Request, fields: dict[str, Any], kind: type[C]) -> C:
    given = request.options or {}
    fields |= {ours: given[theirs] for theirs, ours in _SAMPLING.items() if theirs in given}
    limit = given.get("num_predict")
    if isinstance(limit, int):
        fields["max_tokens"] = limit if limit > 0 else _NO_LIMIT
    elif kind is CompletionRequest:
        fields["max_tokens"] = _NO_LIMIT
    if isinstance(request.format, dict):
        schema = {"name": "format", "schema": request.format}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.format == "json":
        fields["response_format"] = {"type": "json_object"}
    elif request.format:
        raise UsageError(
            f"format is 'json' or a schema, not {request.format!r}",
            code="request.invalid",
            parameter="format",
        )
    if kind is ChatRequest and request.think is not None:
        effort = request.think if isinstance(request.think, str) else None
        fields["reasoning_effort"] = effort or ("medium" if request.think else "none")
    return convert(fields, kind)


def _message(message: Message) -> dict[str, Any]:
    _refuse_images(message.images)
    plain: dict[str, Any] = {
        "role": message.role,
        "content": message.content,
        "reasoning_content": message.thinking,
        "name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                },
            }
            for call in message.tool_calls
        ]
    return plain


def _refuse_images(images: list[Any] | None) -> None:
    if images:
        raise UsageError(
            "images are not supported, only text", code="request.invalid", parameter="images"
        )
