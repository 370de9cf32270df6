"""Reading calls whose arguments stand between tags, as they come."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from baremetalrt.serve.calls.bare import parse_calls
from baremetalrt.serve.calls.call import NOTHING, Call, CallPiece, Found, together, whole
from baremetalrt.serve.calls.json_stream import JsonObject
from baremetalrt.serve.calls.notations import Notation, head_of
from baremetalrt.serve.openai.schema import Tool


class TagReader:
    """Calls whose arguments are between tags, as they stand: each goes on when it is complete."""

    def __init__(self, notation: Notation, tools: Sequence[Tool]) -> None:
        self.rest: str | None = None
        self._notation = notation
        self._types = {tool.function.name: _types(tool) for tool in tools}
        self._head = head_of(notation)
        key, value = notation.parameter.split("|")
        before, after = key.split("{}")
        self._key = (before, after.rstrip("\n"))
        self._value_end = value.strip()
        self._held = ""
        self._call: Call | None = None
        self._arguments: dict[str, Any] = {}

    def add(self, text: str) -> Found:
        self._held += text
        parts: list[Found] = []
        if self._call is None:
            parts.append(self._begin())
        if self._call is not None:
            parts += self._parameters(self._call)
        end, open_key = self._held.find(self._notation.closing), self._held.find(self._key[0])
        # A mark may stand in an argument, too.
        if end >= 0 and not (self._call is not None and 0 <= open_key < end):
            inner = self._held[:end]
            self.rest = self._held[end + len(self._notation.closing) :]
            parts.append(self._close(inner))
        return together(parts)

    def _begin(self) -> Found:
        head = self._head.match(self._held)
        if head is None or head["name"] not in self._types:
            return NOTHING
        self._call = Call(head["name"], "")
        self._held = self._held[head.end() :]
        return Found("", [CallPiece(self._call.id, name=self._call.name)])

    def _parameters(self, call: Call) -> list[Found]:
        found = []
        while (one := self._parameter()) is not None:
            key, text = one
            value = _value(text, self._types[call.name].get(key, ()))
            before = ", " if self._arguments else "{"
            self._arguments[key] = value
            said = f"{before}{_json(key)}: {_json(value)}"
            found.append(Found("", [CallPiece(call.id, arguments=said)]))
        return found

    def _parameter(self) -> tuple[str, str] | None:
        """The next one, if all of it is there, which is then taken off."""
        before, after = self._key
        start = self._held.find(before)
        middle = self._held.find(after, start + len(before)) if start >= 0 else -1
        end = self._held.find(self._value_end, middle + len(after)) if middle >= 0 else -1
        closing = self._held.find(self._notation.closing)
        if end < 0 or 0 <= closing < start:
            return None
        key = self._held[start + len(before) : middle]
        text = self._held[middle + len(after) : end]
        self._held = self._held[end + len(self._value_end) :]
        return key.strip(), text

    def _close(self, inner: str) -> Found:
        """At the closing mark: a call, or one in JSON, which the same models write; else it is text."""
        if self._call is None:
            calls = parse_calls(inner, frozenset(self._types))
            marks = self._notation
            return whole(calls) if calls else Found(marks.opening + inner + marks.closing)
        last = "}" if self._arguments else "{}"
        made = Call(self._call.name, _json(self._arguments), self._call.id)
        return Found("", [CallPiece(made.id, arguments=last), CallPiece(made.id, ended=made)])

    def finish(self) -> Found:
        if self._call is not None:
            # Nothing but the end of it may be missing.
            is_whole = "</function>" in self._held
            return self._close("") if is_whole else NOTHING
        if any(name in self._held for name in self._types):
            return NOTHING
        return Found(self._notation.opening + self._held)


def _types(tool: Tool) -> Mapping[str, tuple[str, ...]]:
    """The JSON types of each parameter, as far as they are said."""
    properties = (tool.function.parameters or {}).get("properties")
    if not isinstance(properties, dict):
        return {}
    found = {}
    for name, schema in properties.items():
        kind = schema.get("type") if isinstance(schema, dict) else None
        kinds = kind if isinstance(kind, list) else [kind]
        found[name] = tuple(one for one in kinds if isinstance(one, str))
    return found


def _value(text: str, types: Sequence[str]) -> Any:
    """What stands between tags, by its type: a text as it is, anything else as JSON where it is some."""
    text = text.removeprefix("\n").removesuffix("\n")
    if tuple(types) == ("string",):
        return text
    follows = JsonObject()
    mended = follows.add(f"[{text.strip()}]")
    try:
        (value,) = json.loads(mended)
    except (ValueError, RecursionError):
        return text
    return text if "string" in types and isinstance(value, int | float) else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
