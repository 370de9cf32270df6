"""`/v1/chat/completions`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

from starlette.responses import Response

from baremetalrt.node.model import Model
from baremetalrt.serve.calls.call import Call, CallPiece
from baremetalrt.serve.conversation import Choice, Conversation, begin
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.openai.schema import ChatRequest


async def complete(
    request: ChatRequest, model: Model, metrics: Counts, held: AsyncExitStack
) -> Response:
    """Answers a conversation, at once or as a stream of events. `held`: see `event_stream`."""
    conversation = await begin(request, model)
    if request.stream:
        stream = g.event_stream(_events(conversation, metrics), held.pop_all())
        return g.with_warning(stream, conversation.grammar)
    return g.with_warning(await _whole(conversation, metrics), conversation.grammar)


async def _whole(conversation: Conversation, metrics: Counts) -> Response:
    request, model, choices = conversation.request, conversation.model, conversation.choices
    logprobs: list[list[dict[str, Any]]] = [[] for _ in choices]
    async with aclosing(conversation.answers(metrics)) as answers:
        async for said in answers:
            if said.token is not None:
                logprobs[said.choice] += g.logprobs_of(said.token, model.tokenizer)
    answer = g.envelope("chat.completion", "chatcmpl", model.name)
    answer["choices"] = [
        {
            "index": i,
            "message": _message(conversation, choice),
            "logprobs": {"content": logprobs[i]} if logprobs[i] else None,
            "finish_reason": _finish_reason(conversation, choice),
            **({"token_ids": choice.tokens} if request.return_token_ids else {}),
        }
        for i, choice in enumerate(choices)
    ]
    if request.return_token_ids:
        answer["prompt_token_ids"] = choices[0].session.prompt
    answer["usage"] = g.usage(conversation.sessions)
    return JsonResponse(answer)


async def _events(
    conversation: Conversation, metrics: Counts
) -> AsyncGenerator[dict[str, Any], None]:
    request, model, choices = conversation.request, conversation.model, conversation.choices
    head = g.envelope("chat.completion.chunk", "chatcmpl", model.name)
    wants_usage = request.stream_options is not None and request.stream_options.include_usage
    if wants_usage:
        head["usage"] = None
    # of which the client knows whose message they are
    begun: set[int] = set()
    # of each choice, the calls that have begun, by their order
    numbers: list[dict[str, int]] = [{} for _ in choices]

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        """With the first words it is said whose they are: not before, as then the prompt is computed."""
        if index not in begun:
            begun.add(index)
            is_call = "tool_calls" in delta or "function_call" in delta
            delta = {"role": "assistant", "content": None if is_call else "", **delta}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**head, "choices": [choice | more]}

    async with aclosing(conversation.answers(metrics)) as answers:
        async for i, news, token in answers:
            choice = choices[i]
            logprobs = g.logprobs_of(token, model.tokenizer) if token else []
            ids = [token.id] if token and token.id is not None else []
            more: dict[str, Any] = {"token_ids": ids} if request.return_token_ids and ids else {}
            if news.thought:
                yield chunk(i, {"reasoning_content": news.thought})
            if news.text or logprobs or more:
                wanted = {"content": logprobs} if logprobs else None
                yield chunk(i, {"content": news.text}, logprobs=wanted, **more)
            for piece in news.pieces:
                if piece.ended is not None:
                    continue
                yield chunk(i, _more(conversation, piece, numbers[i]))
            if token is None:
                yield chunk(i, {}, finish_reason=_finish_reason(conversation, choice))
    if wants_usage:
        yield {**head, "choices": [], "usage": g.usage(conversation.sessions)}


def _finish_reason(conversation: Conversation, choice: Choice) -> str | None:
    if not choice.calls:
        return choice.session.finish_reason
    return "function_call" if _are_functions(conversation) else "tool_calls"


def _message(conversation: Conversation, choice: Choice) -> dict[str, Any]:
    """All of an answer, as one message."""
    said = choice.whole
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
    if said.thought:
        message["reasoning_content"] = said.thought
    if said.calls:
        message |= _calls(conversation, said.calls)
        message["content"] = said.text.strip() or None
    return message


def _calls(conversation: Conversation, calls: Sequence[Call]) -> dict[str, Any]:
    """Calls in the form that was asked for."""
    written = [{"name": call.name, "arguments": call.arguments} for call in calls]
    if _are_functions(conversation):
        return {"function_call": written[0]}
    return {
        "tool_calls": [
            {"id": f"call_{call.id}", "type": "function", "function": function}
            for call, function in zip(calls, written, strict=True)
        ]
    }


def _more(conversation: Conversation, piece: CallPiece, numbers: dict[str, int]) -> dict[str, Any]:
    """More of a call, in the form that was asked for."""
    function = {"arguments": piece.arguments}
    if piece.name is not None:
        function = {"name": piece.name, **function}
    if _are_functions(conversation):
        return {"function_call": function}
    call: dict[str, Any] = {"index": numbers.setdefault(piece.id, len(numbers))}
    if piece.name is not None:
        call |= {"id": f"call_{piece.id}", "type": "function"}
    return {"tool_calls": [call | {"function": function}]}


def _are_functions(conversation: Conversation) -> bool:
    return conversation.tools is not None and conversation.tools.are_functions
