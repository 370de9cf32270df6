"""A call that a model makes, whole and as it comes."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Call:
    """A call that is complete; `arguments` is JSON text."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:24], compare=False)


class CallPiece(NamedTuple):
    """More of a call: its name comes first; then JSON text of its arguments; at last, all of it."""

    id: str
    name: str | None = None
    arguments: str = ""
    ended: Call | None = None


class Found(NamedTuple):
    """What there is in a text: what can be shown, and more of calls."""

    text: str
    pieces: Sequence[CallPiece] = ()

    @property
    def calls(self) -> list[Call]:
        """Those that are complete now."""
        return ended(self.pieces)


NOTHING = Found("")


def ended(pieces: Iterable[CallPiece]) -> list[Call]:
    """The calls that are complete with these."""
    return [piece.ended for piece in pieces if piece.ended is not None]


def together(parts: Iterable[Found]) -> Found:
    """What was found one after the other."""
    found = list(parts)
    text = "".join(part.text for part in found)
    return Found(text, [piece for part in found for piece in part.pieces])


def whole(calls: Iterable[Call]) -> Found:
    """Calls that are there at once."""
    pieces = (
        (
            CallPiece(call.id, name=call.name),
            CallPiece(call.id, arguments=call.arguments),
            CallPiece(call.id, ended=call),
        )
        for call in calls
    )
    return Found("", [piece for three in pieces for piece in three])
