"""The tools of one request, and what the model must or may do with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.serve.calls.notations import Notation, notation_of
from baremetalrt.serve.openai.schema import (
    AllowedToolChoice,
    ChatRequest,
    FunctionName,
    Tool,
    ToolChoice,
)

# Whether the model may call, must call once, or must call once or several times.
Must = Literal["may", "one", "some"]


@dataclass(frozen=True)
class ToolUse:
    """Tools that the model gets to see."""

    notation: Notation
    tools: tuple[Tool, ...]
    must: Must = "may"
    # of which one must be called, where that is not all
    wanted: tuple[Tool, ...] = ()
    # in the form that OpenAI's API had before tools
    are_functions: bool = False
    may_be_several: bool = True

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.function.name for tool in self.tools)

    def for_template(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = msgspec.to_builtins(list(self.tools))
        for tool in found:
            tool["function"] = {k: v for k, v in tool["function"].items() if v is not None}
        return found


def read_tools(request: ChatRequest, template: str, knows: Callable[[str], bool]) -> ToolUse | None:
    """The tools that the model gets to see; None when there are none or it may not use any.

    `knows`: whether a text is one token of the model's.

    Raises:
        UsageError: the model's template knows no tools, or a tool is chosen that is not offered.
    """
    offered, choice = tuple(request.tools or ()), request.tool_choice
    are_functions = not offered and bool(request.functions)
    if are_functions:
        offered = tuple(Tool(function) for function in request.functions or ())
        called = request.function_call
        choice = ToolChoice(called) if isinstance(called, FunctionName) else called
    if not offered or choice == "none":
        if isinstance(choice, ToolChoice | AllowedToolChoice) or choice == "required":
            raise UsageError(
                "tool_choice asks for a tool but none are given",
                code="request.invalid",
                parameter="tool_choice",
            )
        return None
    if "tools" not in template:
        raise UsageError(
            "this model's chat template knows no tools",
            code="template.no-tools",
            parameter="tools",
            hint="use another model, or a template that has them with --chat-template",
        )
    if isinstance(choice, AllowedToolChoice):
        allowed = choice.allowed_tools
        offered = _chosen(offered, [one.function.name for one in allowed.tools])
        choice = allowed.mode
    may_be_several = request.parallel_tool_calls is not False and not are_functions
    must: Must = "may"
    wanted = offered
    if isinstance(choice, ToolChoice):
        must, wanted = "one", _chosen(offered, [choice.function.name])
    elif choice == "required":
        must = "some" if may_be_several else "one"
    notation = notation_of(template, knows)
    return ToolUse(notation, offered, must, wanted, are_functions, may_be_several)


def _chosen(offered: Sequence[Tool], names: Sequence[str]) -> tuple[Tool, ...]:
    known = {tool.function.name: tool for tool in offered}
    for name in names:
        if name not in known:
            raise UsageError(
                f"tool_choice asks for {name!r}, which is not among the tools",
                code="request.invalid",
                parameter="tool_choice",
            )
    return tuple(known[name] for name in names)
