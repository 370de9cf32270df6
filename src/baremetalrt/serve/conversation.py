"""A conversation that a model goes on with, whatever dialect it was asked in.

The request is OpenAI's, which has most to say: other dialects are translated into it, and what comes of
it into theirs.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.serve.calls.answers import AnswerForm, AnswerReader
from baremetalrt.serve.calls.call import Call, whole
from baremetalrt.serve.calls.news import News
from baremetalrt.serve.calls.use import ToolUse, read_tools
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.openai import reasoning
from baremetalrt.serve.openai.schema import ChatRequest, Message, TextPart, ToolCall
from baremetalrt.session.grammar import Grammar
from baremetalrt.session.session import Session, Token
from baremetalrt.session.tokenizer import MARK, Tokenizer


class Said(NamedTuple):
    """News of one choice, with the token that brought them; the last ones have none."""

    choice: int
    news: News
    token: Token | None


class Choice:
    """What has been generated of one choice."""

    def __init__(self, session: Session, tokenizer: Tokenizer, reader: AnswerReader) -> None:
        self.session = session
        self._tokenizer = tokenizer
        self._reader = reader
        self._text: list[str] = []
        self._thought: list[str] = []
        self.tokens: list[int] = []
        self.calls: list[Call] = []

    def add(self, token: Token) -> News:
        if token.id is not None:
            self.tokens.append(token.id)
        return self._keep(self._reader.add(token.text or self._mark(token)))

    def _mark(self, token: Token) -> str:
        """A control token that means something here: it has no text, and its name says what."""
        if not self._reader.marks or token.id is None or not self._tokenizer.is_control(token.id):
            return ""
        name = self._tokenizer.name(token.id).decode("utf-8", "replace")
        return name if name in self._reader.marks else ""

    def finish(self) -> News:
        is_cut = self.session.finish_reason == "length"
        return self._keep(self._reader.finish(is_cut=is_cut))

    def _keep(self, news: News) -> News:
        self._thought.append(news.thought)
        self._text.append(news.text)
        self.calls += news.calls
        return news

    @property
    def whole(self) -> News:
        """All that has come."""
        return News("".join(self._thought), "".join(self._text), whole(self.calls).pieces)


@dataclass(frozen=True)
class Conversation:
    """What was asked, and the answers to it, one for each choice, which nobody has begun to compute."""

    request: ChatRequest
    model: Model
    tools: ToolUse | None
    grammar: Grammar | None
    choices: list[Choice]

    @property
    def sessions(self) -> list[Session]:
        return [choice.session for choice in self.choices]

    async def answers(self, metrics: Counts) -> AsyncGenerator[Said, None]:
        """Computes all of them at once; closing the iterator ends them."""
        async with aclosing(g.run_choices(self.sessions, metrics)) as pieces:
            async for piece in pieces:
                choice = self.choices[piece.choice]
                news = choice.finish() if piece.token is None else choice.add(piece.token)
                yield Said(piece.choice, news, piece.token)


async def begin(request: ChatRequest, model: Model) -> Conversation:
    """Reads a request and makes ready to answer it.

    Raises:
        UsageError: it does not fit into the context, or asks for what cannot be.
    """
    messages, tools = await in_thread(_read, request, model)
    prompt = await model.tokenize_chat(messages, **_as_rendered(request, tools))
    form = AnswerForm.of(model.template.source, model.tokenizer, prompt)
    grammar = await in_thread(_grammar, request, tools, form)
    choices = await in_thread(_choices, request, model, prompt, tools, grammar, form)
    return Conversation(request, model, tools, grammar, choices)


async def prompt_text(request: ChatRequest, model: Model) -> str:
    """What the chat template makes of a conversation; raises like `begin`."""
    messages, tools = await in_thread(_read, request, model)
    return await in_thread(_rendered, request, model, messages, tools)


def _rendered(
    request: ChatRequest, model: Model, messages: list[dict[str, Any]], tools: ToolUse | None
) -> str:
    text = model.template.render(messages, **_as_rendered(request, tools))
    return text.replace(MARK, "")


def _as_rendered(request: ChatRequest, tools: ToolUse | None) -> dict[str, Any]:
    """What the template gets besides the messages."""
    variables = {
        **reasoning.variables_for(request.reasoning_effort),
        **(request.chat_template_kwargs or {}),
    }
    return {"tools": tools.for_template() if tools else None, "variables": variables or None}


def _read(request: ChatRequest, model: Model) -> tuple[list[dict[str, Any]], ToolUse | None]:
    """Messages as templates take them, and the tools. Takes a moment when they are large."""
    model.require_room(sum(map(_num_chars, request.messages)))
    return [_for_template(m) for m in request.messages], read_tools(
        request, model.template.source, model.tokenizer.knows
    )


def _num_chars(message: Message) -> int:
    functions = [call.function for call in message.tool_calls or ()]
    if message.function_call is not None:
        functions.append(message.function_call)
    said = len(_text(message.content)) + len(message.reasoning_content or "")
    return said + sum(len(function.arguments) for function in functions)


def _choices(
    request: ChatRequest,
    model: Model,
    prompt: list[int],
    tools: ToolUse | None,
    grammar: Grammar | None,
    form: AnswerForm,
) -> list[Choice]:
    """One session per choice. Takes seconds when a grammar is large: not for the event loop."""
    return [
        Choice(
            model.session(
                prompt,
                model.chat_options(
                    g.options_of(
                        request,
                        i,
                        max_tokens=request.max_tokens
                        if request.max_completion_tokens is None
                        else request.max_completion_tokens,
                        grammar=grammar,
                        recommended=model.sampling,
                        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
                    )
                ),
            ),
            model.tokenizer,
            form.reader(tools),
        )
        for i in range(request.n or 1)
    ]


def _grammar(request: ChatRequest, tools: ToolUse | None, form: AnswerForm) -> Grammar | None:
    """What the answer must look like: a call, what was asked for, or either."""
    must_call = tools is not None and tools.must != "may"
    asked = request.response_format
    if asked is None or asked.type == "text" or must_call:
        return form.grammar(tools) if must_call else g.grammar_of(request)
    if request.grammar is not None:
        raise UsageError(
            "give response_format or grammar, not both", code="request.invalid", parameter="grammar"
        )
    if asked.type == "json_object":
        return form.grammar(tools, schema={"type": "object"})
    if asked.json_schema is None or asked.json_schema.schema is None:
        raise UsageError(
            "response_format json_schema needs a schema",
            code="request.invalid",
            parameter="response_format.json_schema.schema",
        )
    return form.grammar(tools, schema=asked.json_schema.schema)


def _for_template(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it: plain text, and call arguments as objects."""
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": _text(message.content)}
    if message.reasoning_content is not None:
        # By either name, as templates have it.
        plain["reasoning_content"] = plain["thinking"] = message.reasoning_content
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
