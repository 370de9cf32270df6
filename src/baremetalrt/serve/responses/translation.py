"""What the Responses API asks, in the words of chat."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.serve.decoding import convert
from baremetalrt.serve.openai.schema import ChatRequest
from baremetalrt.serve.responses.ids import new_id
from baremetalrt.serve.responses.schema import (
    Item,
    NamedTool,
    Part,
    ResponsesRequest,
    ResponseTool,
    ToolChoice,
)

LOGPROBS: Final = "message.output_text.logprobs"
_TEXTS: Final = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
# What a tool takes whose input is plain text: models here call with an object.
_INPUT: Final = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}

Message = dict[str, Any]


def as_chat(request: ResponsesRequest, items: Sequence[Item]) -> ChatRequest:
    """The request with all that was said before it; raises `UsageError`."""
    if request.background:
        raise UsageError(
            "background is not supported", code="request.invalid", parameter="background"
        )
    messages = messages_of(items)
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    wants_logprobs = LOGPROBS in (request.include or ())
    tools = [_tool(tool) for tool in request.tools or () if is_ours(tool)]
    fields: dict[str, Any] = {
        "messages": messages,
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "logprobs": wants_logprobs or None,
        "top_logprobs": request.top_logprobs if wants_logprobs else None,
        "tools": tools or None,
        "tool_choice": _choice(request.tool_choice, has_tools=bool(tools)),
        "response_format": _form(request),
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
    }
    return convert(fields, ChatRequest)


def items_of(request: ResponsesRequest) -> list[Item]:
    """What was asked, as steps."""
    if isinstance(request.input, str):
        return [Item(role="user", content=request.input)]
    return request.input


def named(item: Item) -> Item:
    """A step that has a name."""
    return item if item.id else msgspec.structs.replace(item, id=new_id("item"))


def as_json(item: Item) -> dict[str, Any]:
    """A step as the API tells it."""
    plain: dict[str, Any] = {"id": item.id, "type": item.type, "status": "completed"}
    if item.type == "message":
        kind = "output_text" if item.role == "assistant" else "input_text"
        parts = [{"type": kind, "text": text_of(item.content)}]
        return plain | {"role": item.role, "content": parts}
    if item.type == "reasoning":
        parts = [{"type": "reasoning_text", "text": text_of(item.content)}]
        return plain | {"summary": msgspec.to_builtins(item.summary), "content": parts}
    if item.type in ("function_call", "custom_tool_call"):
        written = "arguments" if item.type == "function_call" else "input"
        said = {"name": item.name, written: getattr(item, written)}
    else:
        said = {"output": text_of(item.output)}
    return plain | {"call_id": item.call_id} | said


def is_ours(tool: ResponseTool | NamedTool) -> bool:
    """Whether whoever asks runs a tool; others run on servers of OpenAI's."""
    return tool.type in ("function", "custom")


def messages_of(items: Iterable[Item]) -> list[Message]:
    """Steps as messages: a thought, a text and calls that follow each other are one message."""
    messages: list[Message] = []
    open_answer: Message | None = None
    for item in items:
        if item.type in ("function_call_output", "custom_tool_call_output"):
            said = text_of(item.output)
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": said})
            open_answer = None
        elif item.type == "message" and item.role != "assistant":
            messages.append({"role": item.role, "content": text_of(item.content)})
            open_answer = None
        else:
            if open_answer is None or _begins_anew(open_answer, item):
                open_answer = {"role": "assistant", "content": ""}
                messages.append(open_answer)
            _put(item, open_answer)
    return messages


def _begins_anew(answer: Message, item: Item) -> bool:
    """Whether a step belongs to another message than the one before."""
    if item.type == "reasoning":
        return bool(answer["content"] or "tool_calls" in answer)
    return item.type == "message" and "tool_calls" in answer


def _put(item: Item, answer: Message) -> None:
    """Adds a step to a message of the model."""
    if item.type == "message":
        answer["content"] += text_of(item.content)
    elif item.type == "reasoning":
        thought = text_of(item.content) or text_of(item.summary)
        answer["reasoning_content"] = answer.get("reasoning_content", "") + thought
    elif item.type in ("function_call", "custom_tool_call"):
        arguments = item.arguments
        if item.type == "custom_tool_call":
            arguments = input_as_arguments(item.input)
        function = {"name": item.name, "arguments": arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        answer.setdefault("tool_calls", []).append(call)
    else:
        raise UsageError(
            f"input of type {item.type!r} is not supported",
            code="request.invalid",
            parameter="input",
        )


def text_of(content: str | Sequence[Part] | None) -> str:
    """Raises `UsageError` for what is not text."""
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in _TEXTS:
            raise UsageError(
                f"content of type {part.type!r} is not supported, only text",
                code="request.invalid",
                parameter="input",
            )
    return "".join(part.text or part.refusal for part in content)


def input_as_arguments(text: str) -> str:
    """The input of a custom tool as that of a function."""
    return json.dumps({"input": text}, ensure_ascii=False)


def arguments_as_input(arguments: str) -> str:
    """The reverse; whatever else the model wrote stays as it is."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = found.get("input") if isinstance(found, dict) else None
    return text if isinstance(text, str) else arguments


def _tool(tool: ResponseTool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": _INPUT if tool.type == "custom" else tool.parameters,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _choice(choice: str | ToolChoice | None, *, has_tools: bool) -> Any:
    if not isinstance(choice, ToolChoice):
        # Agents say so whatever they offer.
        return choice if has_tools or choice == "required" else None
    if choice.type == "allowed_tools":
        named = [_named(tool.name) for tool in choice.tools if is_ours(tool)]
        return {"type": choice.type, "allowed_tools": {"mode": choice.mode, "tools": named}}
    if choice.type not in ("function", "custom"):
        raise UsageError(
            f"a tool of type {choice.type!r} runs on other servers, not here",
            code="request.invalid",
            parameter="tool_choice",
        )
    return _named(choice.name)


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _form(request: ResponsesRequest) -> dict[str, Any] | None:
    form = request.text.format if request.text else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    named = {"name": form.name, "schema": form.schema, "strict": form.strict}
    return {"type": "json_schema", "json_schema": named}
