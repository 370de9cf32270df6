"""`/v1/chat/completions`."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, NamedTuple

from starlette.responses import Response

from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Metrics
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.openai import reasoning
from baremetalrt.serve.openai.reasoning import ThoughtFinder
from baremetalrt.serve.openai.schema import ChatRequest, Message, TextPart, ToolCall
from baremetalrt.serve.openai.tools import Call, CallFinder, ToolUse, read_tools
from baremetalrt.session.grammar import Grammar, any_json_object, from_json_schema
from baremetalrt.session.session import Session, Token, TokenLogprob
from baremetalrt.session.tokenizer import Tokenizer


class _Choice:
    """What has been generated of one choice."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        tools: ToolUse | None,
        thoughts: ThoughtFinder | None,
    ) -> None:
        self.session = session
        self._tokenizer = tokenizer
        self.text: list[str] = []
        self.thought: list[str] = []
        self.tokens: list[int] = []
        self.calls: list[Call] = []
        self.logprobs: list[dict[str, Any]] = []
        self._finder = CallFinder(tools) if tools else None
        self._thoughts = thoughts
        self._calls_are_functions = tools is not None and tools.are_functions
        # whether the client knows whose message it is
        self.has_begun = False

    def add(self, token: Token) -> "_News":
        if token.id is not None:
            self.tokens.append(token.id)
        said = token.text or self._mark(token)
        thought, text = self._thoughts.add(said) if self._thoughts else ("", said)
        shown, calls = self._finder.add(text) if self._finder else (text, [])
        return self._keep(thought, shown, calls)

    def _mark(self, token: Token) -> str:
        """A control token that begins or ends a call: nothing of it is shown, and it says so."""
        if self._finder is None or token.id is None or not self._tokenizer.is_control(token.id):
            return ""
        name = self._tokenizer.name(token.id).decode("utf-8", "replace")
        return name if name in self._finder.marks else ""

    def finish(self) -> "_News":
        thought, text = self._thoughts.finish() if self._thoughts else ("", "")
        shown, calls = self._finder.add(text) if self._finder and text else (text, [])
        last, more = self._finder.finish() if self._finder else ("", [])
        return self._keep(thought, shown + last, [*calls, *more])

    def _keep(self, thought: str, shown: str, calls: list[Call]) -> "_News":
        self.thought.append(thought)
        self.text.append(shown)
        self.calls += calls
        return _News(thought, shown, calls)

    @property
    def finish_reason(self) -> str | None:
        if not self.calls:
            return self.session.finish_reason
        return "function_call" if self._calls_are_functions else "tool_calls"

    def message(self) -> dict[str, Any]:
        """All of it, as one message."""
        text, thought = "".join(self.text), "".join(self.thought)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if thought:
            message["reasoning_content"] = thought
        if self.calls:
            message |= self.as_calls(self.calls)
            message["content"] = text.strip() or None
        return message

    def as_calls(self, calls: list[Call], first: int | None = None) -> dict[str, Any]:
        """Calls in the form that was asked for; with `first`, of a stream in which they are so many."""
        if self._calls_are_functions:
            return {"function_call": {"name": calls[0].name, "arguments": calls[0].arguments}}
        numbers = [None if first is None else first + n for n in range(len(calls))]
        return {"tool_calls": [call.as_openai(n) for call, n in zip(calls, numbers, strict=True)]}


class _News(NamedTuple):
    """What has come: of the thought, of the answer, and calls that are complete."""

    thought: str
    text: str
    calls: list[Call]


async def complete(
    request: ChatRequest, model: Model, metrics: Metrics, held: AsyncExitStack
) -> Response:
    """Answers a conversation, at once or as a stream of events. `held`: see `EventStream`."""
    messages, tools = await in_thread(_read, request, model)
    prompt = await model.tokenize_chat(
        messages,
        tools=tools.for_template() if tools else None,
        variables={
            **reasoning.variables_for(request.reasoning_effort),
            **(request.chat_template_kwargs or {}),
        }
        or None,
    )
    grammar = await in_thread(_grammar, request, tools)
    choices = await in_thread(_choices, request, model, prompt, tools, grammar)
    if request.stream:
        events = _events(request, model, choices, metrics)
        return g.with_warning(g.EventStream(events, held.pop_all()), grammar)
    return g.with_warning(await _whole(request, model, choices, metrics), grammar)


def _read(request: ChatRequest, model: Model) -> tuple[list[dict[str, Any]], ToolUse | None]:
    """Messages as templates take them, and the tools. Takes a moment when they are large."""
    model.require_room(sum(map(_num_chars, request.messages)))
    return [_for_template(m) for m in request.messages], read_tools(request, model.template.source)


def _num_chars(message: Message) -> int:
    calls = message.tool_calls or ()
    return len(_text(message.content)) + sum(len(call.function.arguments) for call in calls)


def _choices(
    request: ChatRequest,
    model: Model,
    prompt: list[int],
    tools: ToolUse | None,
    grammar: Grammar | None,
) -> list[_Choice]:
    """One session per choice. Takes seconds when a grammar is large: not for the event loop."""
    thinks = reasoning.thinks(model.template.source)
    is_inside = thinks and reasoning.begins_inside(model.tokenizer, prompt)
    return [
        _Choice(
            model.session(
                prompt,
                g.options_of(
                    request,
                    i,
                    max_tokens=request.max_tokens
                    if request.max_completion_tokens is None
                    else request.max_completion_tokens,
                    grammar=grammar,
                    recommended=model.sampling,
                    top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
                ),
            ),
            model.tokenizer,
            tools,
            reasoning.ThoughtFinder(is_inside=is_inside) if thinks else None,
        )
        for i in range(request.n or 1)
    ]


async def _whole(
    request: ChatRequest, model: Model, choices: list[_Choice], metrics: Metrics
) -> Response:
    sessions = [choice.session for choice in choices]
    async with aclosing(g.run_choices(sessions, metrics)) as pieces:
        async for piece in pieces:
            choice = choices[piece.choice]
            if piece.token is None:
                choice.finish()
            else:
                choice.add(piece.token)
                choice.logprobs += _logprobs(model, piece.token)
    answer = g.envelope("chat.completion", "chatcmpl", model.name)
    answer["choices"] = [
        {
            "index": i,
            "message": choice.message(),
            "logprobs": {"content": choice.logprobs} if choice.logprobs else None,
            "finish_reason": choice.finish_reason,
            **({"token_ids": choice.tokens} if request.return_token_ids else {}),
        }
        for i, choice in enumerate(choices)
    ]
    if request.return_token_ids:
        answer["prompt_token_ids"] = sessions[0].prompt
    answer["usage"] = g.usage(sessions)
    return JsonResponse(answer)


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

    def said(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        """With the first words it is said whose they are: not before, as then the prompt is computed."""
        choice = choices[index]
        if not choice.has_begun:
            choice.has_begun = True
            delta = {"role": "assistant", "content": None if "tool_calls" in delta else "", **delta}
        return chunk(index, delta, **more)

    async with aclosing(g.run_choices([c.session for c in choices], metrics)) as pieces:
        async for piece in pieces:
            i, choice = piece.choice, choices[piece.choice]
            ended = piece.token is None
            news = choice.finish() if piece.token is None else choice.add(piece.token)
            logprobs = _logprobs(model, piece.token) if piece.token else []
            ids = [piece.token.id] if piece.token and piece.token.id is not None else []
            more: dict[str, Any] = {"token_ids": ids} if request.return_token_ids and ids else {}
            if news.thought:
                yield said(i, {"reasoning_content": news.thought})
            if news.text or logprobs or more:
                wanted = {"content": logprobs} if logprobs else None
                yield said(i, {"content": news.text}, logprobs=wanted, **more)
            if news.calls:
                first = len(choice.calls) - len(news.calls)
                yield said(i, choice.as_calls(news.calls, first))
            if ended:
                yield said(i, {}, finish_reason=choice.finish_reason)
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
    if message.reasoning_content is not None:
        plain["reasoning_content"] = message.reasoning_content
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    calls = message.tool_calls or []
    if message.function_call is not None:
        calls = [*calls, ToolCall(message.function_call)]
    if calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments),
                },
            }
            for call in calls
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
