"""`/v1/messages` and `/v1/messages/count_tokens`."""

import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from starlette.responses import Response

from baremetalrt.node.model import Model
from baremetalrt.serve.anthropic import errors
from baremetalrt.serve.anthropic.schema import MessagesRequest, as_chat
from baremetalrt.serve.calls.news import News
from baremetalrt.serve.conversation import Conversation, begin
from baremetalrt.serve.event_stream import Event, EventStream, named_data, written
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Counts
from baremetalrt.session.session import Session


async def complete(
    request: MessagesRequest, model: Model, metrics: Counts, held: AsyncExitStack
) -> Response:
    """Goes on with a conversation, at once or as a stream of events."""
    conversation = await begin(as_chat(request), model)
    if request.stream:
        events = _events(conversation, metrics)
        text = written(events, named_data, lambda error: errors.of(error)[1])
        return EventStream(text, held.pop_all())
    async with aclosing(conversation.answers(metrics)) as answers:
        async for _ in answers:
            pass
    (choice,) = conversation.choices
    message = _message(model) | _end(conversation)
    message["content"] = _content(choice.whole)
    message["usage"] = _usage(choice.session)
    return JsonResponse(message)


async def count_tokens(
    request: MessagesRequest, model: Model, _metrics: Counts, _held: AsyncExitStack
) -> Response:
    """How long the prompt would be; nothing is computed."""
    (session,) = (await begin(as_chat(request), model)).sessions
    return JsonResponse({"input_tokens": len(session.prompt)})


def _message(model: Model) -> dict[str, Any]:
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model.name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _end(conversation: Conversation) -> dict[str, Any]:
    """Why it ended."""
    (choice,) = conversation.choices
    stopped_at = choice.session.stopped_at
    if choice.calls:
        reason = "tool_use"
    elif choice.session.finish_reason == "length":
        reason = "max_tokens"
    else:
        reason = "end_turn" if stopped_at is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": stopped_at if not choice.calls else None}


def _usage(session: Session) -> dict[str, int]:
    stats = session.stats
    return {
        "input_tokens": stats.prompt_tokens - stats.cached_tokens,
        "cache_read_input_tokens": stats.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": stats.generated_tokens,
    }


def _content(said: News) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    if said.thought:
        content.append({"type": "thinking", "thinking": said.thought, "signature": ""})
    if said.text.strip() or not (said.calls or said.thought):
        content.append({"type": "text", "text": said.text})
    content += [_tool_use(call.id, call.name, _object(call.arguments)) for call in said.calls]
    return content


def _tool_use(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{call_id}", "name": name, "input": arguments}


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class _Blocks:
    """The blocks of one answer, one after the other: which is open, and what number it has."""

    def __init__(self) -> None:
        self._index = -1
        self._open: str | None = None

    def delta(self, kind: str, block: dict[str, Any], delta: dict[str, Any]) -> list[Event]:
        """More of a block of that kind, which begins if it is not the one that is open."""
        events = [] if self._open == kind else self.begin(kind, block)
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return [*events, event]

    def begin(self, kind: str, block: dict[str, Any]) -> list[Event]:
        """A block that is open now; a call is a kind of its own."""
        ended = self.close()
        self._index += 1
        self._open = kind
        begun = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*ended, begun]

    def close(self) -> list[Event]:
        if self._open is None:
            return []
        self._open = None
        return [{"type": "content_block_stop", "index": self._index}]


async def _events(conversation: Conversation, metrics: Counts) -> AsyncGenerator[Event, None]:
    (choice,) = conversation.choices
    usage = {"input_tokens": len(choice.session.prompt), "output_tokens": 0}
    yield {"type": "message_start", "message": _message(conversation.model) | {"usage": usage}}
    blocks = _Blocks()
    async with aclosing(conversation.answers(metrics)) as answers:
        async for said in answers:
            for event in _more(blocks, said.news):
                yield event
    for event in blocks.close():
        yield event
    yield {
        "type": "message_delta",
        "delta": _end(conversation),
        "usage": _usage(choice.session),
    }
    yield {"type": "message_stop"}


def _more(blocks: _Blocks, news: News) -> list[Event]:
    events: list[Event] = []
    if news.thought:
        begun = {"type": "thinking", "thinking": "", "signature": ""}
        delta = {"type": "thinking_delta", "thinking": news.thought}
        events += blocks.delta("thinking", begun, delta)
    if news.text:
        delta = {"type": "text_delta", "text": news.text}
        events += blocks.delta("text", {"type": "text", "text": ""}, delta)
    for piece in news.pieces:
        if piece.ended is not None:
            events += blocks.close()
        elif piece.name is not None:
            events += blocks.begin(piece.id, _tool_use(piece.id, piece.name, {}))
        else:
            delta = {"type": "input_json_delta", "partial_json": piece.arguments}
            events += blocks.delta(piece.id, {}, delta)
    return events
