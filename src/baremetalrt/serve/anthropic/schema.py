"""Requests of Anthropic's clients, and what they are in OpenAI's words.

Fields that mean nothing here (`metadata`, `cache_control`, betas …) are left out. Thinking is what the
model's own template makes of it: budgets are not kept.
"""

import json
from typing import Annotated, Any, Final

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.serve.decoding import convert
from baremetalrt.serve.openai.schema import ChatRequest, Count

_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
# Efforts that only this dialect has.
_EFFORTS: Final = {"xhigh": "high", "max": "high"}


class Block(msgspec.Struct):
    """A part of a message; which fields it has depends on its type."""

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = {}
    tool_use_id: str = ""
    content: "str | list[Block] | None" = None
    is_error: bool = False


class Message(msgspec.Struct):
    role: str
    content: str | list[Block]


class AnthropicTool(msgspec.Struct):
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    # tools that Anthropic's servers run themselves have a type of their own
    type: str | None = None


class ToolChoice(msgspec.Struct):
    type: str
    name: str = ""


class Thinking(msgspec.Struct):
    type: str


class OutputFormat(msgspec.Struct):
    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class MessagesRequest(msgspec.Struct, kw_only=True):
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str = ""
    # counting needs none
    max_tokens: Count | None = None
    system: str | list[Block] | None = None
    stop_sequences: Annotated[list[str], msgspec.Meta(max_length=16)] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    tools: Annotated[list[AnthropicTool], msgspec.Meta(max_length=256)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    # by its name of the beta
    output_format: OutputFormat | None = None


def as_chat(request: MessagesRequest) -> ChatRequest:
    """The same in OpenAI's words; raises `UsageError`."""
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": _text(request.system, "system")})
    for message in request.messages:
        messages += _messages(message)
    fields: dict[str, Any] = {
        "messages": messages,
        "max_tokens": request.max_tokens,
        "stop": request.stop_sequences,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "tools": [_tool(tool) for tool in request.tools or ()] or None,
        "tool_choice": _choice(request.tool_choice) if request.tools else None,
    }
    output = request.output_config or OutputConfig()
    if request.thinking is not None:
        effort = output.effort or "medium"
        is_off = request.thinking.type == "disabled"
        fields["reasoning_effort"] = "none" if is_off else _EFFORTS.get(effort, effort)
    form = output.format or request.output_format
    if form is not None:
        fields["response_format"] = _form(form)
    return convert(fields, ChatRequest)


def _messages(message: Message) -> list[dict[str, Any]]:
    """One message as those that it is elsewhere: results of tools are messages of their own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results, calls, text, thought = [], [], [], []
    for block in message.content:
        if block.type == "tool_result":
            said = _text(block.content or "", "tool_result")
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": said})
        elif block.type == "tool_use":
            arguments = json.dumps(block.input, ensure_ascii=False)
            function = {"name": block.name, "arguments": arguments}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif block.type == "thinking":
            thought.append(block.thinking)
        elif block.type != "redacted_thinking":
            text.append(_text([block], message.role))
    if not (calls or text or thought):
        return results
    plain: dict[str, Any] = {"role": message.role, "content": "".join(text)}
    if calls:
        plain["tool_calls"] = calls
    if thought:
        plain["reasoning_content"] = "".join(thought)
    return [*results, plain]


def _text(content: str | list[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if block.type != "text":
            raise UsageError(
                f"content of type {block.type!r} is not supported in {where}, only text",
                code="request.invalid",
                parameter="messages",
            )
    return "".join(block.text for block in content)


def _form(form: OutputFormat) -> dict[str, Any]:
    if form.type != "json_schema" or form.schema is None:
        raise UsageError(
            "a format of outputs is a json_schema with its schema",
            code="request.invalid",
            parameter="output_config.format",
        )
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": form.schema}}


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise UsageError(
            f"the tool {tool.name!r} of type {tool.type!r} runs on other servers, not here",
            code="request.invalid",
            parameter="tools",
        )
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice | None) -> Any:
    if choice is None:
        return None
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    if choice.type not in _CHOICES:
        raise UsageError(
            f"tool_choice is auto, any, tool or none, not {choice.type!r}",
            code="request.invalid",
            parameter="tool_choice",
        )
    return _CHOICES[choice.type]
