"""Reading calls whose arguments are JSON, as they come."""

import re
from typing import Final

from baremetalrt.serve.calls.bare import begins_call, parse_calls
from baremetalrt.serve.calls.call import NOTHING, Call, CallPiece, Found, together, whole
from baremetalrt.serve.calls.json_stream import JsonObject
from baremetalrt.serve.calls.notations import OBJECT_HEAD, Notation, head_of

# Whole strings of JSON.
_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class JsonReader:
    """Calls whose arguments are objects of JSON: they go on as they come."""

    def __init__(self, notation: Notation, names: frozenset[str]) -> None:
        self.rest: str | None = None
        self._notation = notation
        self._names = names
        self._head = head_of(notation)
        self._held = ""
        self._open: _OpenCall | None = None
        self._num_calls = 0

    def add(self, text: str) -> Found:
        self._held += text
        parts: list[Found] = []
        while True:
            if self._open is not None:
                parts.append(self._go_on(self._open))
                if self._open is not None:
                    break
            elif (begun := self._begin()) is not None:
                parts.append(begun)
            else:
                parts.append(self._end())
                break
        return together(parts)

    def _begin(self) -> Found | None:
        """The next call, if all that says its name is there."""
        head = self._head.match(self._held)
        if head is None or head["name"].strip() not in self._names:
            return None
        self._held = self._held[head.end() :]
        self._open = _OpenCall(head["name"].strip())
        self._num_calls += 1
        return Found("", [CallPiece(self._open.id, name=self._open.name)])

    def _go_on(self, call: "_OpenCall") -> Found:
        """More of the arguments; the call is complete with their last brace."""
        more, self._held = call.add(self._held), ""
        pieces = [CallPiece(call.id, arguments=more)] if more else []
        if call.rest is None:
            return Found("", pieces)
        self._open, self._held = None, call.rest
        return Found("", [*pieces, CallPiece(call.id, ended=call.call)])

    def _end(self) -> Found:
        """Where the closing mark is there, what is before it."""
        closing = self._notation.closing
        end = _end_of_call(self._held, closing) if closing else None
        if end is None:
            return NOTHING
        inner, self.rest = self._held[:end], self._held[end + len(closing) :]
        if self._num_calls:
            return NOTHING
        calls = parse_calls(inner, self._names)
        return whole(calls) if calls else Found(self._notation.opening + inner + closing)

    def finish(self) -> Found:
        if self._open is not None or self._num_calls:
            # A call that was cut is nothing to anybody.
            return NOTHING
        if calls := parse_calls(self._held, self._names):
            return whole(calls)
        if self._is_cut():
            return NOTHING
        return Found(self._notation.opening + self._held)

    def _is_cut(self) -> bool:
        if self._notation.head == OBJECT_HEAD:
            return begins_call(self._held, self._names)
        return any(name in self._held for name in self._names)


class _OpenCall:
    """A call whose arguments come."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._object = JsonObject()
        self._written: list[str] = []
        self.id = Call(name, "").id

    def add(self, text: str) -> str:
        more = self._object.add(text)
        self._written.append(more)
        return more

    @property
    def rest(self) -> str | None:
        return self._object.rest

    @property
    def call(self) -> Call:
        return Call(self.name, "".join(self._written), self.id)


def _end_of_call(text: str, closing: str) -> int | None:
    """Where a call ends: at the first mark that does not stand in one of its strings."""
    start = 0
    while (end := text.find(closing, start)) >= 0:
        if not _STRINGS.sub("", text[:end]).count('"') % 2:
            return end
        start = end + 1
    return None
