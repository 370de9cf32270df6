"""Separating calls from ordinary text while both stream in."""

from collections.abc import Sequence

from baremetalrt.serve.calls.bare import PYTHON_TAG, begins_call, may_begin_call, parse_calls
from baremetalrt.serve.calls.brace_reader import BraceReader
from baremetalrt.serve.calls.call import NOTHING, Found, together, whole
from baremetalrt.serve.calls.json_reader import JsonReader
from baremetalrt.serve.calls.notations import Notation, head_of
from baremetalrt.serve.calls.reader import Reader
from baremetalrt.serve.calls.tag_reader import TagReader
from baremetalrt.serve.openai.schema import Tool
from baremetalrt.session.stopping import overlap


class CallFinder:
    """In every notation an answer that is nothing but one call counts, bare or in a fence, as small
    models write it.
    """

    def __init__(self, notation: Notation, tools: Sequence[Tool]) -> None:
        self._notation = notation
        self._tools = tools
        self._names = frozenset(tool.function.name for tool in tools)
        self._head = head_of(notation)
        self._held = ""
        self._reader: Reader | None = None
        # whether all that has come may be the beginning of a bare call
        self._may_be_bare = True

    @property
    def marks(self) -> frozenset[str]:
        """What may come by the name of a control token, which has no text."""
        return self._notation.all_marks

    def add(self, text: str) -> Found:
        """Text that can be shown, and calls as far as they have come."""
        if self._reader is not None:
            return self._read(self._reader, text)
        self._held += text
        if self._may_be_bare:
            if (begun := self._begin_bare()) is not None:
                return begun
            opening = self._notation.opening
            if may_begin_call(self._held) and not (opening and opening in self._held):
                return NOTHING
            self._may_be_bare = False
        return self._look()

    def _begin_bare(self) -> Found | None:
        """A call without marks, where calls have none and all of its head is there."""
        if self._notation.opening:
            return None
        text = self._held.lstrip().removeprefix(PYTHON_TAG).lstrip()
        head = self._head.match(text) if text.startswith("{") else None
        if head is None or head["name"] not in self._names:
            return None
        self._held, self._may_be_bare = "", False
        self._reader = JsonReader(self._notation, self._names)
        return self._read(self._reader, text)

    def _look(self) -> Found:
        """What can be shown of the text that waits, up to an opening mark."""
        opening = self._notation.opening
        if not opening:
            return self._release()
        before, mark, after = self._held.partition(opening)
        if not mark:
            cut = len(self._held) - overlap(self._held, opening)
            shown, self._held = self._held[:cut], self._held[cut:]
            return Found(shown)
        self._held = ""
        self._reader = self._new_reader()
        return together([Found(before), self._read(self._reader, after)])

    def _new_reader(self) -> Reader:
        n = self._notation
        if n.style == "tags":
            return TagReader(n, self._tools)
        return BraceReader(n, self._names) if n.style == "braces" else JsonReader(n, self._names)

    def _read(self, reader: Reader, text: str) -> Found:
        found = reader.add(text)
        if reader.rest is None:
            return found
        self._reader, self._held = None, reader.rest
        return together([found, self._look()])

    def finish(self) -> Found:
        """What is left at the end: an unfinished call may be a whole one, and half a call is nothing."""
        if self._reader is not None:
            return self._reader.finish()
        if self._may_be_bare:
            if calls := parse_calls(self._held, self._names):
                self._held = ""
                return whole(calls)
            if begins_call(self._held, self._names):
                return NOTHING
        return self._release()

    def _release(self) -> Found:
        shown, self._held = self._held, ""
        return Found(shown)
