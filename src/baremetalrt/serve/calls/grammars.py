"""What an answer must look like: calls, a schema, or either; a thought may come before it.

Rules are in llguidance's Lark notation.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from baremetalrt.serve.calls.notations import Notation
from baremetalrt.serve.openai.reasoning import ThoughtMarks
from baremetalrt.serve.openai.schema import Tool
from baremetalrt.session.grammar import Rules

# An answer of calls has an end.
_MAX_CALLS: Final = 16
_NUMBER: Final = r"/-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?/"
_COMMA: Final = '","'
_SCALARS: Final = {
    "integer": "/-?(0|[1-9][0-9]{0,15})/",
    "number": _NUMBER,
    "boolean": '("true" | "false")',
    "null": '"null"',
}

# The token that a text is, where it is a control token: those are not written by their letters.
TokenOf = Callable[[str], int | None]


class Wording:
    """Texts as rules say them: control tokens are tokens."""

    def __init__(self, token_of: TokenOf, rules: Rules) -> None:
        self._token_of = token_of
        self.rules = rules

    def text(self, text: str, marks: Sequence[str] = ()) -> str:
        """A text in which there may be marks."""
        for mark in marks:
            if mark and mark in text and (token := self._token_of(mark)) is not None:
                before, _, after = text.partition(mark)
                parts = (self.text(before, marks), f"<[{token}]>", self.text(after, marks))
                return " ".join(part for part in parts if part)
        return json.dumps(text, ensure_ascii=False) if text else ""

    def until(self, mark: str) -> str:
        """Any text, up to a mark and with it."""
        token = self._token_of(mark)
        if token is not None:
            return f"{self.rules.add('TEXT', '/(?s:.*)/')} <[{token}]>"
        return self.rules.add("text", "/(?s:.*)/", f"[suffix={json.dumps(mark)}]")


def calls(
    wording: Wording, notation: Notation, wanted: Sequence[Tool], *, may_be_several: bool
) -> str:
    """The rule of one call of some tools, or of several."""
    writer = _WRITERS[notation.style](wording, notation)
    rules, n = wording.rules, notation
    call = rules.add("call", " | ".join(writer.call(tool) for tool in wanted))
    times = f"{{0,{_MAX_CALLS - 1}}}"
    if n.between is None:
        one = rules.add("marked", writer.joined(n.opening, call, n.closing))
        gap = writer.text("\n" if n.closing.startswith("</") else "")
        return f"{one} ({gap} {one}){times}" if may_be_several else one
    listed = f"{call} ({writer.text(n.between)} {call}){times}" if may_be_several else call
    before, after = n.brackets
    return writer.joined(n.opening + before, listed, after + n.closing)


def call_or_answer(tools: Sequence[Tool], answer: Any) -> dict[str, Any]:
    """The schema of a call without marks, or of an answer by a schema of its own."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "parameters": tool.function.parameters or {"type": "object"},
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    whole: dict[str, Any] = {"anyOf": [*calls, answer]}
    for schema in (*(tool.function.parameters or {} for tool in tools), answer):
        # What they refer to by its place is at the root.
        for place in ("$defs", "definitions") if isinstance(schema, dict) else ():
            if place in schema:
                whole[place] = {**schema[place], **whole.get(place, {})}
    return whole


def thought(wording: Wording, marks: ThoughtMarks, *, is_inside: bool) -> str:
    """The rule of a thought up to its end, which may be left out unless it has begun."""
    space = wording.rules.add("SPACE", r"/[ \n]{0,4}/")
    rest = f"{wording.until(marks.closing)} {space}"
    return rest if is_inside else f"({wording.text(marks.opening, sorted(marks.tokens))} {rest})?"


class _Writer:
    """How a notation writes the arguments of a call: as JSON."""

    def __init__(self, wording: Wording, notation: Notation) -> None:
        self._wording = wording
        self._notation = notation
        self._rules = wording.rules

    def text(self, text: str) -> str:
        return self._wording.text(text, sorted(self._notation.all_marks, key=len, reverse=True))

    def joined(self, before: str, rule: str, after: str) -> str:
        return " ".join(part for part in (self.text(before), rule, self.text(after)) if part)

    def call(self, tool: Tool) -> str:
        n, name = self._notation, tool.function.name
        if '"{}"' in n.before:
            # What of a name JSON would escape, is escaped.
            name = json.dumps(name, ensure_ascii=False)[1:-1]
        arguments = self.arguments(tool.function.parameters or {"type": "object"})
        return f"({self.joined(n.before.replace('{}', name, 1), arguments, n.after)})"

    def arguments(self, schema: dict[str, Any]) -> str:
        return self._rules.json(schema)


class _TagWriter(_Writer):
    """Between tags, texts as they stand."""

    def arguments(self, schema: dict[str, Any]) -> str:
        required = schema.get("required", [])
        parts = []
        for key, said in _properties(schema).items():
            before, after = self._notation.parameter.split("|")
            value = self._value(said, after)
            one = f"{self.text(before.replace('{}', key))} {value}"
            parts.append(one if key in required else f"({one})?")
        return " ".join(parts)

    def _value(self, schema: Any, after: str) -> str:
        kind = schema.get("type") if isinstance(schema, dict) else None
        if kind != "string":
            return f"{self._rules.json(schema)} {self.text(after)}"
        if words := _words(schema):
            return f"({' | '.join(map(self.text, words))}) {self.text(after)}"
        mark = after.strip()
        if after.startswith("\n"):
            return f"{self._wording.until(after)}"
        return f"{self._wording.until(mark)} {self.text(after.removeprefix(mark))}"


class _BraceWriter(_Writer):
    """Between braces, texts between marks."""

    def arguments(self, schema: dict[str, Any]) -> str:
        required = schema.get("required", [])
        pairs = [
            (f"{self.text(f'{key}:')} {self._value(said)}", key in required)
            for key, said in _properties(schema).items()
        ]
        return f'"{{" {self._listed(pairs, has_before=False)} "}}"'

    def _listed(self, pairs: list[tuple[str, bool]], *, has_before: bool) -> str:
        """With commas between those that are there."""
        if not pairs:
            return ""
        (one, is_required), rest = pairs[0], pairs[1:]
        taken = f"{_COMMA if has_before else ''} {one} {self._listed(rest, has_before=True)}"
        if is_required:
            return taken
        left = self._listed(rest, has_before=has_before)
        return self._rules.add("pairs", f"{taken} | {left}" if left else f"({taken})?")

    def _value(self, schema: Any) -> str:
        quote = self._notation.parameter
        mark = self.text(quote)
        plain = schema if isinstance(schema, dict) else {}
        kind = plain.get("type")
        if words := _words(plain):
            return f"({' | '.join(f'{mark} {self.text(word)} {mark}' for word in words)})"
        if kind in _SCALARS:
            return self._rules.add("VALUE", _SCALARS[kind]) if kind != "boolean" else _SCALARS[kind]
        if kind == "array":
            item = self._value(plain.get("items"))
            return f'"[" ({item} ("," {item}){{0,64}})? "]"'
        if kind == "object" and _properties(plain):
            return self.arguments(plain)
        return f"{mark} {self._wording.until(quote)}"


_WRITERS: Final = {
    "json": _Writer,
    # whose last mark ends the answer, and is not chosen
    "channels": _Writer,
    "tags": _TagWriter,
    "braces": _BraceWriter,
}


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _words(schema: dict[str, Any]) -> list[str]:
    """The texts that a value may be, where they are few."""
    found = schema.get("enum", [schema["const"]] if "const" in schema else [])
    is_text = isinstance(found, list) and all(isinstance(one, str) and one for one in found)
    return list(found) if is_text else []
