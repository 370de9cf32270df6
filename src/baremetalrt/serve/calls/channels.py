"""Answers in channels: thoughts, calls and what is meant for the user, each with a header.

Source: the chat template of gpt-oss (`<|channel|>NAME<|message|>…<|end|>`).
"""

import re
from typing import Final

from baremetalrt.serve.calls.call import Call, CallPiece
from baremetalrt.serve.calls.news import News
from baremetalrt.session.stopping import overlap

_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
_ENDS: Final = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", _CHANNEL)
MARKS: Final = (
    _CHANNEL,
    _MESSAGE,
    "<|constrain|>",
    "<|start|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)
_RECIPIENT: Final = re.compile(r"to=(?:functions\.)?([^\s<]+)")


class ChannelFinder:
    """Separates channels while they stream in."""

    marks = frozenset(MARKS)

    def __init__(self, names: frozenset[str]) -> None:
        """`names`: tools that may be called."""
        self._names = names
        self._held = ""
        # what came before the message of a channel; None inside of one
        self._header: str | None = ""
        self._is_thought = False
        self._call: Call | None = None
        self._written: list[str] = []
        self._has_begun = False

    def add(self, text: str) -> News:
        self._held += text
        parts: list[News] = []
        while self._held:
            before = (self._held, self._header is None)
            parts.append(self._read_header() if self._header is not None else self._read_body())
            if before == (self._held, self._header is None):
                break
        return _together(parts)

    def _read_header(self) -> News:
        if not self._has_begun and not _CHANNEL.startswith(self._held[: len(_CHANNEL)]):
            # A model that has lost its form: all of it is for the user.
            self._has_begun, self._header = True, None
            return News()
        header, mark, rest = self._held.partition(_MESSAGE)
        if not mark:
            return News()
        self._held, self._header, self._has_begun = rest, None, True
        recipient = _RECIPIENT.search(header)
        self._is_thought = _CHANNEL + "analysis" in header and recipient is None
        if recipient is None or recipient[1] not in self._names:
            return News()
        self._call, self._written = Call(recipient[1], ""), []
        return News(pieces=[CallPiece(self._call.id, name=self._call.name)])

    def _read_body(self) -> News:
        ends = [(at, end) for end in _ENDS if (at := self._held.find(end)) >= 0]
        if not ends:
            cut = len(self._held) - max(overlap(self._held, end) for end in _ENDS)
            said, self._held = self._held[:cut], self._held[cut:]
            return self._say(said)
        at, end = min(ends)
        said, self._held = self._held[:at], self._held[at:]
        if end != _CHANNEL:
            self._held = self._held[len(end) :]
        news = _together([self._say(said), self._close()])
        self._header = ""
        return news

    def _say(self, text: str) -> News:
        if not text:
            return News()
        if self._call is not None:
            self._written.append(text)
            return News(pieces=[CallPiece(self._call.id, arguments=text)])
        return News(thought=text) if self._is_thought else News(text=text)

    def _close(self) -> News:
        """The end of a message: with it, a call is complete."""
        if self._call is None:
            return News()
        call = Call(self._call.name, "".join(self._written).strip() or "{}", self._call.id)
        self._call = None
        return News(pieces=[CallPiece(call.id, ended=call)])

    def finish(self, *, is_cut: bool) -> News:
        """What is left at the end; a call is complete unless the answer was cut."""
        if self._header is not None:
            # A header without its message says nothing.
            return News(text="" if self._has_begun else self._held)
        last = self._say(self._held)
        return last if is_cut else _together([last, self._close()])


def _together(parts: list[News]) -> News:
    return News(
        "".join(part.thought for part in parts),
        "".join(part.text for part in parts),
        [piece for part in parts for piece in part.pieces],
    )
