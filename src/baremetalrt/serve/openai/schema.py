"""Requests as they come over the wire: types and bounds, checked before anything else happens.

Source: OpenAI's API reference; what it does not have are extensions that other local servers share, under
the names that they have there.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

_MAX_CHOICES: Final = 16

# -1 stands for no limit.
Count = Annotated[int, msgspec.Meta(ge=-1)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=_MAX_CHOICES)]
TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=20)]
Stops = Annotated[list[str], msgspec.Meta(max_length=16)]


class StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchema(msgspec.Struct):
    name: str = ""
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Function(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    function: Function
    type: Literal["function"] = "function"


class FunctionName(msgspec.Struct):
    name: str


class ToolChoice(msgspec.Struct, tag_field="type", tag="function"):
    function: FunctionName


class FunctionCall(msgspec.Struct):
    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct):
    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"


class TextPart(msgspec.Struct):
    type: str
    text: str = ""


class Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    function_call: FunctionCall | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class AllowedTools(msgspec.Struct):
    tools: list[ToolChoice]
    mode: Literal["auto", "required"] = "auto"


class AllowedToolChoice(msgspec.Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


class _Request(msgspec.Struct, kw_only=True):
    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Choices | None = None
    stop: str | Stops | None = None
    max_tokens: Count | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    # extensions
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    grammar: str | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[int], msgspec.Meta(max_length=64)] | None = None
    return_token_ids: bool | None = None
    # accepted, and without effect on a machine of one's own
    user: Any = None
    store: Any = None
    metadata: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None
    cache_prompt: Any = None


class ChatRequest(_Request, kw_only=True):
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], msgspec.Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | AllowedToolChoice | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    functions: Annotated[list[Function], msgspec.Meta(max_length=128)] | None = None
    function_call: Literal["none", "auto"] | FunctionName | None = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    modalities: Any = None
    verbosity: Any = None


class CompletionRequest(_Request, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: TopLogprobs | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    response_format: ResponseFormat | None = None
