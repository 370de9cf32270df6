"""Tool calls: what a request offers, how a model writes a call, and finding it in streamed text.

Models write calls in the notation that their chat template teaches them; three cover the field.
"""

import json
import re
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
# Later models of Mistral's write `name[CALL_ID]id[ARGS]{…}`.
_ARGUMENTS: Final = "[ARGS]"
_CALL_ID: Final = "[CALL_ID]"
_FENCE: Final = "```"
_FENCED: Final = ("", "json", "tool_call")
# Whole strings of JSON.
_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
# What a call may begin with; another object is an answer, and need not be held back.
_FIRST_KEY: Final = re.compile(r'\{\s*"([^"]*)"')
_CALL_KEYS: Final = ("name", "arguments", "parameters", "type", "id")
_BEGUN: Final = re.compile(r'\s*\[?\s*\{\s*"name"\s*:\s*"([^"]*)"')


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
    """Separates calls from ordinary text while both stream in.

    In every notation an answer that is nothing but one call counts, bare or in a fence, as small models
    write it.
    """

    def __init__(self, use: ToolUse) -> None:
        self._style = _STYLES[use.notation]
        self._names = {t.function.name for t in use.tools}
        self._held = ""
        self._inside = False
        # whether all that has come may be the beginning of a bare call
        self._may_be_bare = True

    @property
    def marks(self) -> frozenset[str]:
        """What begins and ends calls, where it is written by control tokens, which have no text."""
        inner = (_ARGUMENTS, _CALL_ID) if self._style.is_list else ()
        return frozenset({self._style.opening, self._style.closing, *inner} - {""})

    def add(self, text: str) -> tuple[str, list[Call]]:
        """Text that can be shown, and calls that are complete."""
        self._held += text
        opening = self._style.opening
        if self._may_be_bare:
            if may_begin_call(self._held) and not (opening and opening in self._held):
                return "", []
            self._may_be_bare = False
        if not opening:
            return self._release(), []
        shown, calls = "", list[Call]()
        while True:
            if not self._inside:
                before, mark, after = self._held.partition(opening)
                if not mark:
                    cut = len(self._held) - overlap(self._held, opening)
                    shown += self._held[:cut]
                    self._held = self._held[cut:]
                    return shown, calls
                shown, self._held, self._inside = shown + before, after, True
            if not self._style.closing:
                return shown, calls
            end = _end_of_call(self._held, self._style.closing)
            if end is None:
                return shown, calls
            inner, after = self._held[:end], self._held[end + len(self._style.closing) :]
            self._inside, self._held = False, after
            found = self._parse(inner)
            shown += "" if found else opening + inner + self._style.closing
            calls += found

    def finish(self) -> tuple[str, list[Call]]:
        """What is left at the end: an unfinished call may be a whole one, and half a call is nothing."""
        if not (self._inside or self._may_be_bare):
            return self._release(), []
        calls = self._parse(self._held)
        if calls:
            self._held = ""
            return "", calls
        if self._is_cut():
            self._held = ""
            return "", []
        opening = self._style.opening if self._inside else ""
        return opening + self._release(), []

    def _is_cut(self) -> bool:
        """Whether what is left began as a call of a tool, and did not come to its end."""
        begun = _BEGUN.match(_unfenced(self._held))
        return begun is not None and begun[1] in self._names

    def _release(self) -> str:
        shown, self._held = self._held, ""
        return shown

    def _parse(self, text: str) -> list[Call]:
        if self._style.is_list and _ARGUMENTS in text:
            return self._parse_named(text)
        try:
            inner = _unfenced(text.strip().removeprefix(_PYTHON_TAG))
            value = json.loads(inner, parse_constant=_no_json)
        except (ValueError, RecursionError):
            return []
        found = []
        for item in value if isinstance(value, list) else [value]:
            name = item.get("name") if isinstance(item, dict) else None
            if not isinstance(name, str) or name not in self._names:
                return []
            arguments = item.get("arguments", item.get("parameters", {}))
            found.append(Call(name, _as_text(arguments)))
        return found

    def _parse_named(self, text: str) -> list[Call]:
        """`name[ARGS]{…}`, once or several times, each behind an opening of its own."""
        found = []
        for part in text.split(self._style.opening):
            head, _, written = part.partition(_ARGUMENTS)
            name = head.partition(_CALL_ID)[0].strip()
            try:
                arguments = json.loads(written, parse_constant=_no_json)
            except (ValueError, RecursionError):
                return []
            if name not in self._names or not isinstance(arguments, dict):
                return []
            found.append(Call(name, _as_text(arguments)))
        return found


def may_begin_call(text: str) -> bool:
    """Whether more of it could make a bare call: an object, behind a tag or in a fence."""
    start = text.lstrip()
    key = _FIRST_KEY.match(start)
    if key is not None and key[1] not in _CALL_KEYS:
        return False
    if any(mark.startswith(start) or start.startswith(mark) for mark in ("{", _PYTHON_TAG)):
        return True
    if not start.startswith(_FENCE):
        return _FENCE.startswith(start)
    language, newline, rest = start[len(_FENCE) :].partition("\n")
    if not newline:
        return any(known.startswith(language.strip()) for known in _FENCED)
    return language.strip() in _FENCED and rest.lstrip()[:1] in ("", "{")


def _unfenced(text: str) -> str:
    """What stands in a fence, or all of it where there is none."""
    inner = text.strip()
    if not inner.startswith(_FENCE):
        return inner
    _, _, inner = inner.partition("\n")
    return inner.rstrip().removesuffix(_FENCE).strip()


def _end_of_call(text: str, closing: str) -> int | None:
    """Where a call ends: at the first mark that does not stand in one of its strings."""
    start = 0
    while (end := text.find(closing, start)) >= 0:
        if not _STRINGS.sub("", text[:end]).count('"') % 2:
            return end
        start = end + 1
    return None


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _no_json(name: str) -> Any:
    """`NaN` and endless numbers, which Python reads and nobody who gets the call would."""
    raise ValueError(f"{name} is not JSON")
