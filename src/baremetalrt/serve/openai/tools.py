"""Tool calls: what a request offers, how a model writes a call, and finding it in streamed text.

Models write calls in the notation that their chat template teaches them; three cover the field.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.serve.openai.schema import (
    AllowedToolChoice,
    ChatRequest,
    FunctionName,
    Tool,
    ToolChoice,
)
from baremetalrt.session.grammar import Grammar, from_lark
from baremetalrt.session.stopping import overlap

Notation = Literal["hermes", "mistral", "llama"]


@dataclass(frozen=True)
class _Style:
    opening: str
    closing: str
    arguments: str
    is_list: bool


_STYLES: Final[dict[Notation, _Style]] = {
    # <tool_call>{"name": …, "arguments": {…}}</tool_call>: Hermes, Qwen, SmolLM
    "hermes": _Style("<tool_call>", "</tool_call>", "arguments", is_list=False),
    # [TOOL_CALLS][{"name": …, "arguments": {…}}]: Mistral
    "mistral": _Style("[TOOL_CALLS]", "", "arguments", is_list=True),
    # {"name": …, "parameters": {…}} as the whole answer: Llama 3
    "llama": _Style("", "", "parameters", is_list=False),
}


# Llama 3 may put this in front of a call.
_PYTHON_TAG: Final = "<|python_tag|>"


@dataclass(frozen=True)
class Call:
    """A call that a model made; `arguments` is JSON text."""

    name: str
    arguments: str

    def as_openai(self, index: int | None = None) -> dict[str, Any]:
        call: dict[str, Any] = {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }
        return call if index is None else {"index": index, **call}


@dataclass(frozen=True)
class ToolUse:
    """The tools of one request, and what the model must or may do with them."""

    notation: Notation
    tools: tuple[Tool, ...]
    grammar: Grammar | None
    # in the form that OpenAI's API had before tools
    are_functions: bool = False

    def for_template(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = msgspec.to_builtins(list(self.tools))
        for tool in found:
            tool["function"] = {k: v for k, v in tool["function"].items() if v is not None}
        return found


def read_tools(request: ChatRequest, template: str) -> ToolUse | None:
    """The tools that the model gets to see; None when there are none or it may not use any.

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
    notation = _notation(template)
    if isinstance(choice, AllowedToolChoice):
        allowed = choice.allowed_tools
        offered = _chosen(offered, [one.function.name for one in allowed.tools])
        choice = allowed.mode
    grammar = None
    if isinstance(choice, ToolChoice):
        grammar = _call_grammar(notation, _chosen(offered, [choice.function.name]))
    elif choice == "required":
        grammar = _call_grammar(notation, offered)
    return ToolUse(notation, offered, grammar, are_functions)


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


def _notation(template: str) -> Notation:
    if "tools" not in template:
        raise UsageError(
            "this model's chat template knows no tools",
            code="template.no-tools",
            parameter="tools",
            hint="use another model, or a template that has them with --chat-template",
        )
    if "[TOOL_CALLS]" in template:
        return "mistral"
    return "hermes" if "tool_call>" in template else "llama"


def _call_grammar(notation: Notation, tools: Sequence[Tool]) -> Grammar:
    """Output that is exactly one call of one of `tools`."""
    style = _STYLES[notation]
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": t.function.name},
                style.arguments: t.function.parameters or {"type": "object"},
            },
            "required": ["name", style.arguments],
            "additionalProperties": False,
        }
        for t in tools
    ]
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if style.is_list:
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
    # Hermes puts the call on a line of its own.
    gap = "\n" if style.closing else ""
    opening, closing = json.dumps(style.opening + gap), json.dumps(gap + style.closing)
    parts = [opening] if style.opening else []
    parts += ["call", closing] if style.closing else ["call"]
    return from_lark(f"start: {' '.join(parts)}\ncall: %json {json.dumps(schema)}\n")


class CallFinder:
    """Separates calls from ordinary text while both stream in."""

    def __init__(self, use: ToolUse) -> None:
        self._style = _STYLES[use.notation]
        self._names = {t.function.name for t in use.tools}
        self._held = ""
        self._inside = False
        # In a notation without an opening: the answer is known to be text.
        self._is_text = False

    def add(self, text: str) -> tuple[str, list[Call]]:
        """Text that can be shown, and calls that are complete."""
        self._held += text
        if not self._style.opening:
            # The whole answer is a call or it is not: known at the end, or by how it begins.
            start = self._held.lstrip()
            may_be_call = start.startswith(("{", _PYTHON_TAG)) or _PYTHON_TAG.startswith(start)
            self._is_text = self._is_text or not may_be_call
            return (self._release() if self._is_text else ""), []
        shown, calls = "", list[Call]()
        while True:
            if not self._inside:
                before, opening, after = self._held.partition(self._style.opening)
                if not opening:
                    keep = overlap(self._held, self._style.opening)
                    cut = len(self._held) - keep
                    shown += self._held[:cut]
                    self._held = self._held[cut:]
                    return shown, calls
                shown, self._held, self._inside = shown + before, after, True
            if not self._style.closing:
                return shown, calls
            inner, closing, after = self._held.partition(self._style.closing)
            if not closing:
                return shown, calls
            self._inside, self._held = False, after
            found = self._parse(inner)
            shown += "" if found else self._style.opening + inner + closing
            calls += found

    def finish(self) -> tuple[str, list[Call]]:
        """What is left at the end: an unfinished call may still be a whole one."""
        if self._inside or not (self._style.opening or self._is_text):
            calls = self._parse(self._held)
            if calls:
                self._held = ""
                return "", calls
        opening = self._style.opening if self._inside else ""
        return opening + self._release(), []

    def _release(self) -> str:
        shown, self._held = self._held, ""
        return shown

    def _parse(self, text: str) -> list[Call]:
        try:
            inner = text.strip().removeprefix(_PYTHON_TAG).strip()
            value = json.loads(inner, parse_constant=_no_json)
        except (ValueError, RecursionError):
            return []
        found = []
        for item in value if isinstance(value, list) else [value]:
            name = item.get("name") if isinstance(item, dict) else None
            if not isinstance(name, str) or name not in self._names:
                return []
            arguments = item.get("arguments", item.get("parameters", {}))
            found.append(
                Call(
                    name,
                    arguments
                    if isinstance(arguments, str)
                    else json.dumps(arguments, ensure_ascii=False),
                )
            )
        return found


def _no_json(name: str) -> Any:
    """`NaN` and endless numbers, which Python reads and nobody who gets the call would."""
    raise ValueError(f"{name} is not JSON")
