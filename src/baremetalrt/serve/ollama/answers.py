"""`/api/chat` and `/api/generate`: an answer line by line, or whole."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import Response

from baremetalrt.node.model import Model
from baremetalrt.serve.calls.news import News
from baremetalrt.serve.conversation import Conversation, begin
from baremetalrt.serve.event_stream import JSON_LINES, EventStream, json_line, written
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.ollama import errors
from baremetalrt.serve.ollama.schema import (
    OllamaChat,
    OllamaGenerate,
    as_chat,
    generate_as_chat,
    generate_as_completion,
)
from baremetalrt.serve.openai import completions
from baremetalrt.serve.openai import generation as g
from baremetalrt.session.session import Session

_NS: Final = 1_000_000_000
# What has come, as the fields of a line.
Fields = Callable[[News], dict[str, Any]]


async def chat(
    request: OllamaChat, model: Model, metrics: Counts, held: AsyncExitStack
) -> Response:
    """Goes on with a conversation; without messages, the model is only loaded."""
    began = time.perf_counter()
    if not request.messages:
        return JsonResponse(_line(model) | _as_message(News()) | _loaded())
    conversation = await begin(as_chat(request), model)
    lines = _lines(conversation, _as_message, metrics, began)
    return await _answered(model, lines, held, streams=request.stream is not False)


async def generate(
    request: OllamaGenerate, model: Model, metrics: Counts, held: AsyncExitStack
) -> Response:
    """Answers a prompt, or goes on with a raw one; without any, the model is only loaded."""
    began = time.perf_counter()
    streams = request.stream is not False
    if not request.prompt:
        return JsonResponse(_line(model) | {"response": ""} | _loaded())
    if request.raw or request.suffix:
        session = await completions.one(generate_as_completion(request), model)
        return await _answered(
            model, _raw_lines(model, session, metrics, began), held, streams=streams
        )
    conversation = await begin(generate_as_chat(request), model)
    lines = _lines(conversation, _as_response, metrics, began)
    return await _answered(model, lines, held, streams=streams)


def _as_message(news: News) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": news.text}
    if news.thought:
        message["thinking"] = news.thought
    if news.calls:
        message["tool_calls"] = [
            {"function": {"name": call.name, "arguments": _arguments(call.arguments)}}
            for call in news.calls
        ]
    return {"message": message}


def _as_response(news: News) -> dict[str, Any]:
    return {"response": news.text} | ({"thinking": news.thought} if news.thought else {})


def _arguments(text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


async def _lines(
    conversation: Conversation, fields: Fields, metrics: Counts, began: float
) -> AsyncGenerator[dict[str, Any], None]:
    model, (choice,) = conversation.model, conversation.choices
    async with aclosing(conversation.answers(metrics)) as answers:
        async for said in answers:
            if any(said.news):
                yield _line(model) | fields(said.news) | {"done": False}
    yield _line(model) | fields(News()) | _end(choice.session, began)


async def _raw_lines(
    model: Model, session: Session, metrics: Counts, began: float
) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(g.run_choices([session], metrics)) as pieces:
        async for piece in pieces:
            if piece.token is not None and piece.token.text:
                yield _line(model) | {"response": piece.token.text, "done": False}
    yield _line(model) | {"response": ""} | _end(session, began)


def _line(model: Model) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"model": model.name, "created_at": now}


def _loaded() -> dict[str, Any]:
    return {"done": True, "done_reason": "load"}


def _end(session: Session, began: float) -> dict[str, Any]:
    stats = session.stats
    total_s = time.perf_counter() - began
    return {
        "done": True,
        "done_reason": session.finish_reason,
        "total_duration": int(total_s * _NS),
        "load_duration": int(max(0.0, total_s - stats.prefill_s - stats.decode_s) * _NS),
        "prompt_eval_count": stats.prompt_tokens,
        "prompt_eval_duration": int(stats.prefill_s * _NS),
        "eval_count": stats.generated_tokens,
        "eval_duration": int(stats.decode_s * _NS),
    }


async def _answered(
    model: Model,
    lines: AsyncGenerator[dict[str, Any], None],
    held: AsyncExitStack,
    *,
    streams: bool,
) -> Response:
    if streams:
        text = written(lines, json_line, lambda error: errors.of(error)[1])
        return EventStream(text, held.pop_all(), JSON_LINES)
    return JsonResponse(await _whole(lines))


async def _whole(lines: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    """All lines as one: what was said put together, and the figures of the last one."""
    text: dict[str, str] = {"content": "", "thinking": "", "response": ""}
    calls: list[Any] = []
    last: dict[str, Any] = {}
    async with aclosing(lines) as each:
        async for last in each:
            said = last.get("message", last)
            for name in text:
                text[name] += said.get(name, "")
            calls += said.get("tool_calls", [])
    whole = last.get("message", last)
    whole |= {name: found for name, found in text.items() if found or name in whole}
    if calls:
        whole["tool_calls"] = calls
    return last
