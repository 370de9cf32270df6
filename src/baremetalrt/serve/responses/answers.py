"""`/v1/responses`: answers, and those that are kept."""

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from baremetalrt.core.errors import BareMetalError
from baremetalrt.node.model import Model
from baremetalrt.serve.conversation import Conversation, Said, begin
from baremetalrt.serve.event_stream import Event, EventStream, named_data, written
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.openai import errors
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.responses.ids import new_id
from baremetalrt.serve.responses.kept import KeptResponses
from baremetalrt.serve.responses.output import Output
from baremetalrt.serve.responses.schema import Item, ResponsesRequest
from baremetalrt.serve.responses.translation import as_chat, is_ours, items_of, named


@dataclass
class _Answer:
    """An answer that comes: its steps, and what is said of all of it."""

    request: ResponsesRequest
    asked: list[Item]
    conversation: Conversation
    output: Output
    response: dict[str, Any]
    num_thought_tokens: int = 0

    def add(self, said: Said) -> list[Event]:
        if said.token is None:
            return self.output.add(said.news)
        self.num_thought_tokens += bool(said.news.thought)
        logprobs = g.logprobs_of(said.token, self.conversation.model.tokenizer)
        return self.output.add(said.news, logprobs)

    def finish(self) -> list[Event]:
        """The last of it; now the response is whole."""
        (choice,) = self.conversation.choices
        is_cut = choice.session.finish_reason == "length" and not choice.calls
        events = self.output.finish(is_cut=is_cut)
        self.response |= {
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "completed_at": None if is_cut else int(time.time()),
            "output": self.output.items,
            "usage": self._usage(),
        }
        return events

    def _usage(self) -> dict[str, Any]:
        (session,) = self.conversation.sessions
        stats = session.stats
        return {
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": stats.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": stats.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": self.num_thought_tokens},
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        }


class Responses:
    """Answers requests, and keeps the answers."""

    def __init__(self) -> None:
        self.kept = KeptResponses()

    async def complete(
        self, request: ResponsesRequest, model: Model, metrics: Counts, held: AsyncExitStack
    ) -> Response:
        """Goes on with a conversation, at once or as a stream of events."""
        answer = await self._begin(request, model)
        grammar = answer.conversation.grammar
        if request.stream:
            events = self._events(answer, metrics)
            text = written(events, named_data, lambda error: errors.of(error)[1])
            stream = EventStream(text, held.pop_all())
            return g.with_warning(stream, grammar)
        async with aclosing(answer.conversation.answers(metrics)) as answers:
            async for said in answers:
                answer.add(said)
        answer.finish()
        self._keep(answer)
        return g.with_warning(JsonResponse(answer.response), grammar)

    async def _begin(self, request: ResponsesRequest, model: Model) -> _Answer:
        owner, previous = model.owner, request.previous_response_id
        asked = [
            self.kept.item(owner, item.id or "") if item.type == "item_reference" else named(item)
            for item in items_of(request)
        ]
        before = [] if previous is None else self.kept.history(owner, previous)
        conversation = await begin(as_chat(request, [*before, *asked]), model)
        custom = (tool.name for tool in request.tools or () if tool.type == "custom")
        output = Output(frozenset(custom))
        return _Answer(request, asked, conversation, output, _response(request, conversation))

    def _keep(self, answer: _Answer) -> None:
        # Unless it is said otherwise, as OpenAI does.
        if answer.request.store is not False:
            self.kept.keep(answer.conversation.model.owner, answer.response, answer.asked)

    async def _events(self, answer: _Answer, metrics: Counts) -> AsyncGenerator[Event, None]:
        """With numbers; an error of ours is the last of them."""
        number = 0

        def numbered(event: Event) -> Event:
            nonlocal number
            number += 1
            return event | {"sequence_number": number - 1}

        def whole(name: str) -> Event:
            return numbered({"type": name, "response": dict(answer.response)})

        yield whole("response.created")
        yield whole("response.in_progress")
        try:
            async with aclosing(answer.conversation.answers(metrics)) as answers:
                async for said in answers:
                    for event in answer.add(said):
                        yield numbered(event)
            for event in answer.finish():
                yield numbered(event)
        except BareMetalError as error:
            said_error = errors.of(error)[1]["error"]
            failure = {"code": "server_error", "message": said_error["message"]}
            answer.response |= {"status": "failed", "error": failure, "output": []}
            yield whole("response.failed")
            return
        self._keep(answer)
        yield whole(f"response.{answer.response['status']}")


def _response(request: ResponsesRequest, conversation: Conversation) -> dict[str, Any]:
    """What is known of a response before it has begun."""
    sampling = conversation.model.sampling
    form = request.text.format if request.text else None
    tools = [tool for tool in request.tools or () if is_ours(tool)]
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "model": conversation.model.name,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {
            "effort": request.reasoning.effort if request.reasoning else None,
            "summary": None,
        },
        "store": request.store is not False,
        "temperature": _given(request.temperature, sampling.temperature),
        "text": {"format": msgspec.to_builtins(form) if form else {"type": "text"}},
        "tool_choice": msgspec.to_builtins(request.tool_choice or "auto"),
        "tools": msgspec.to_builtins(tools),
        "top_p": _given(request.top_p, sampling.top_p),
        "truncation": "disabled",
        "usage": None,
    }


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
