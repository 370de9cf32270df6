"""Requests of the Responses API: types and bounds, checked before anything else happens."""

from typing import Annotated, Any, Literal

import msgspec

from baremetalrt.serve.openai.schema import StreamOptions, TopLogprobs

# Agents send every step of a task as items of its own.
_MAX_ITEMS = 10_000


class Part(msgspec.Struct):
    """A part of a message, or of what a tool gave back."""

    type: str
    text: str = ""
    refusal: str = ""


class Item(msgspec.Struct):
    """A step of a conversation; which fields it has depends on its type."""

    type: str = "message"
    id: str | None = None
    role: str = ""
    content: str | list[Part] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    input: str = ""
    output: str | list[Part] = ""
    summary: list[Part] = []


class ResponseTool(msgspec.Struct):
    """A tool; those of other types than `function` and `custom` run on other servers."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(msgspec.Struct):
    type: str
    name: str = ""


class ToolChoice(msgspec.Struct):
    type: str
    name: str = ""
    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = []


class Reasoning(msgspec.Struct):
    effort: Any = None


class Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct):
    format: Format | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True):
    input: str | Annotated[list[Item], msgspec.Meta(max_length=_MAX_ITEMS)] = []
    model: str = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: TopLogprobs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    include: list[str] | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: Annotated[list[ResponseTool], msgspec.Meta(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    background: bool | None = None
    # accepted, and without effect on a machine of one's own
    truncation: Any = None
    user: Any = None
    max_tool_calls: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    context_management: Any = None
    client_metadata: Any = None
