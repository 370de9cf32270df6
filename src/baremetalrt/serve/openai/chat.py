"""`/v1/chat/completions`."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from starlette.responses import Response

from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Metrics
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.openai.schema import ChatRequest, Message, TextPart
from baremetalrt.serve.openai.tools import Call, CallFinder, ToolUse, read_tools
from baremetalrt.session.grammar import Grammar, any_json_object, from_json_schema
from baremetalrt.session.session import Session, Token, TokenLogprob


class _Choice:
    """What has been generated of one choice."""

    def __init__(self, session: Session, tools: ToolUse | None) -> None:
        self.session = session
        self.text: list[str] = []
        self.calls: list[Call] = []
        self.logprobs: list[dict[str, Any]] = []
        self._finder = CallFinder(tools) if tools else None

    def add(self, text: str) -> tuple[str, list[Call]]:
        shown, calls = self._finder.add(text) if self._finder else (text, [])
        return self._keep(shown, calls)

    def finish(self) -> tuple[str, list[Call]]:
        shown, calls = self._finder.finish() if self._finder else ("", [])
        return self._keep(shown, calls)

    def _keep(self, shown: str, calls: list[Call]) -> tuple[str, list[Call]]:
        self.text.append(shown)
        self.calls += calls
        return shown, calls

    @property
    def finish_reason(self) -> str | None:
        return "tool_calls" if self.calls else self.session.finish_reason


async def complete(
    request: ChatRequest, model: Model, metrics: Metrics, held: AsyncExitStack
) -> Response:
    """Answers a conversation, at once or as a stream of events. `held`: see `EventStream`."""
    messages, tools = await in_thread(_read, request, model)
    prompt = await model.tokenize_chat(
        messages,
        tools=tools.for_template() if tools else None,
        variables=request.chat_template_kwargs,
    )
    choices = await in_thread(_choices, request, model, prompt, tools)
    if request.stream:
        return g.EventStream(_events(request, model, choices, metrics), held.pop_all())
    return await _whole(model, choices, metrics)


def _read(request: ChatRequest, model: Model) -> tuple[list[dict[str, Any]], ToolUse | None]:
    """Messages as templates take them, and the tools. Takes a moment when they are large."""
    model.require_room(sum(map(_num_chars, request.messages)))
    return [_for_template(m) for m in request.messages], read_tools(request, model.template.source)


def _num_chars(message: Message) -> int:
    calls = message.tool_calls or ()
    return len(_text(message.content)) + sum(len(call.function.arguments) for call in calls)


def _choices(
    request: ChatRequest, model: Model, prompt: list[int], tools: ToolUse | None
) -> list[_Choice]:
    """One session per choice. Takes seconds when a grammar is large: not for the event loop."""
    grammar = _grammar(request, tools)
    return [
        _Choice(
            model.session(
                prompt,
                g.options_of(
                    request,
                    i,
                    max_tokens=request.max_completion_tokens or request.max_tokens,
                    grammar=grammar,
                    top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
                ),
            ),
            tools,
        )
        for i in range(request.n or 1)
    ]


async def _whole(model: Model, choices: list[_Choice], metrics: Metrics) -> Response:
    sessions = [choice.session for choice in choices]
    async with aclosing(g.run_choices(sessions, metrics)) as pieces:
        async for piece in pieces:
            choice = choices[piece.choice]
            if piece.token is None:
                choice.finish()
            else:
                choice.add(piece.token.text)
                choice.logprobs += _logprobs(model, piece.token)
    answer = g.envelope("chat.completion", "chatcmpl", model.name)
    answer["choices"] = [_as_message(i, choice) for i, choice in enumerate(choices)]
    answer["usage"] = g.usage(sessions)
    return JsonResponse(answer)


def _as_message(index: int, choice: _Choice) -> dict[str, Any]:
    text = "".join(choice.text)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if choice.calls:
        message["tool_calls"] = [call.as_openai() for call in choice.calls]
        message["content"] = text.strip() or None
    return {
        "index": index,
        "message": message,
        "logprobs": {"content": choice.logprobs} if choice.logprobs else None,
        "finish_reason": choice.finish_reason,
    }


async def _events(
    request: ChatRequest,
    model: Model,
    choices: list[_Choice],
    metrics: Metrics,
) -> AsyncGenerator[dict[str, Any], None]:
    head = g.envelope("chat.completion.chunk", "chatcmpl", model.name)
    wants_usage = request.stream_options is not None and request.stream_options.include_usage
    if wants_usage:
        head["usage"] = None

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**head, "choices": [choice | more]}

    for i in range(len(choices)):
        yield chunk(i, {"role": "assistant", "content": ""})
    async with aclosing(g.run_choices([c.session for c in choices], metrics)) as pieces:
        async for piece in pieces:
            i, choice = piece.choice, choices[piece.choice]
            ended = piece.token is None
            text, calls = choice.finish() if piece.token is None else choice.add(piece.token.text)
            logprobs = _logprobs(model, piece.token) if piece.token else []
            if text or logprobs:
                yield chunk(
                    i, {"content": text}, logprobs={"content": logprobs} if logprobs else None
                )
            if calls:
                first = len(choice.calls) - len(calls)
                deltas = [call.as_openai(first + n) for n, call in enumerate(calls)]
                yield chunk(i, {"tool_calls": deltas})
            if ended:
                yield chunk(i, {}, finish_reason=choice.finish_reason)
    if wants_usage:
        yield {**head, "choices": [], "usage": g.usage([c.session for c in choices])}


def _logprobs(model: Model, token: Token) -> list[dict[str, Any]]:
    if token.logprob is None:
        return []

    def entry(t: TokenLogprob) -> dict[str, Any]:
        text, raw = g.token_text(model.tokenizer, t.token)
        return {"token": text, "logprob": g.finite(t.logprob), "bytes": raw}

    return [entry(token.logprob) | {"top_logprobs": [entry(t) for t in token.alternatives]}]


def _grammar(request: ChatRequest, tools: ToolUse | None) -> Grammar | None:
    """What the answer must look like; a forced tool call goes before a response format."""
    if tools is not None and tools.grammar is not None:
        return tools.grammar
    form = request.response_format
    if form is None or form.type == "text":
        return g.grammar_of(request)
    if request.grammar is not None:
        raise UsageError(
            "give response_format or grammar, not both", code="request.invalid", parameter="grammar"
        )
    if form.type == "json_object":
        return any_json_object()
    if form.json_schema is None or form.json_schema.schema is None:
        raise UsageError(
            "response_format json_schema needs a schema",
            code="request.invalid",
            parameter="response_format.json_schema.schema",
        )
    return from_json_schema(form.json_schema.schema)


def _for_template(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it: plain text, and call arguments as objects."""
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": _text(message.content)}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments),
                },
            }
            for call in message.tool_calls
        ]
    return plain


def _text(content: str | list[TextPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in ("text", "input_text"):
            raise UsageError(
                f"content of type {part.type!r} is not supported, only text",
                code="request.invalid",
                parameter="messages",
            )
    return "".join(part.text for part in content)


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also a number of thousands of digits
        return text
