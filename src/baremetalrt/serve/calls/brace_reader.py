"""Reading calls of Gemma's, as they come."""

import json
import re

from baremetalrt.serve.calls.bare import begins_call, parse_calls
from baremetalrt.serve.calls.braces import parse_braces
from baremetalrt.serve.calls.call import NOTHING, Call, Found, whole
from baremetalrt.serve.calls.notations import Notation


class BraceReader:
    """Calls of Gemma's: `call:NAME{key:value}`, texts between marks. They go on when complete."""

    def __init__(self, notation: Notation, names: frozenset[str]) -> None:
        self.rest: str | None = None
        self._notation = notation
        self._names = names
        self._held = ""

    def add(self, text: str) -> Found:
        self._held += text
        end = self._end()
        if end is None:
            return NOTHING
        inner, self.rest = self._held[:end], self._held[end + len(self._notation.closing) :]
        calls = self._parse(inner)
        marks = self._notation
        return whole(calls) if calls else Found(marks.opening + inner + marks.closing)

    def _end(self) -> int | None:
        """Where the closing mark is that stands in no text."""
        quote, start = self._notation.parameter, 0
        while (end := self._held.find(self._notation.closing, start)) >= 0:
            if self._held.count(quote, 0, end) % 2 == 0:
                return end
            start = end + 1
        return None

    def _parse(self, inner: str) -> list[Call]:
        head = re.match(r"\s*call:\s*([^{\s]+)\s*(?=\{)", inner)
        if head is None or head[1] not in self._names:
            return parse_calls(inner, self._names)
        try:
            arguments = parse_braces(inner[head.end() :], self._notation.parameter)
        except (ValueError, RecursionError):
            return []
        return [Call(head[1], json.dumps(arguments, ensure_ascii=False))]

    def finish(self) -> Found:
        if calls := self._parse(self._held):
            return whole(calls)
        if re.match(r"\s*call:", self._held) or begins_call(self._held, self._names):
            return NOTHING
        return Found(self._notation.opening + self._held)
