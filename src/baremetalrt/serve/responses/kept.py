"""Responses that later requests go on from: in memory, each for whoever asked for it.

Nothing of a conversation is written to disk for this, so that they are gone when the server ends.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.owner import Owner
from baremetalrt.core.units import MIB
from baremetalrt.serve.json_response import to_json
from baremetalrt.serve.responses.schema import Item

_MAX_BYTES: Final = 64 * MIB
# Of one owner, who else would push out what others keep.
_MAX_BYTES_EACH: Final = 16 * MIB


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A response, and what was said in its turn: what was asked, and what came of it."""

    response: dict[str, Any]
    previous: str | None
    asked: tuple[Item, ...]
    answered: tuple[Item, ...]
    num_bytes: int

    @property
    def items(self) -> tuple[Item, ...]:
        return self.asked + self.answered


def _is_cut_call(item: dict[str, Any]) -> bool:
    """Half a call: nothing goes on from it."""
    return str(item["type"]).endswith("_call") and item["status"] == "incomplete"


class _Shelf:
    """Those of one owner; the one that was not asked for longest is the first."""

    def __init__(self) -> None:
        self.turns: OrderedDict[str, Kept] = OrderedDict()
        self.num_bytes = 0

    def add(self, name: str, turn: Kept) -> None:
        self.turns[name] = turn
        self.num_bytes += turn.num_bytes

    def remove(self, name: str) -> None:
        self.num_bytes -= self.turns.pop(name).num_bytes

    def remove_first(self) -> None:
        self.remove(next(iter(self.turns)))


class KeptResponses:
    """Those of all owners, within bounds; which were not asked for longest go first."""

    def __init__(self, max_bytes: int = _MAX_BYTES, max_bytes_each: int = _MAX_BYTES_EACH) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_each = max_bytes_each
        self._shelves: dict[Owner, _Shelf] = {}

    def keep(self, owner: Owner, response: dict[str, Any], asked: Sequence[Item]) -> None:
        """From now on others of the same owner can go on from a response."""
        turn = Kept(
            response=response,
            previous=response["previous_response_id"],
            asked=tuple(asked),
            answered=tuple(
                msgspec.convert(item, Item) for item in response["output"] if not _is_cut_call(item)
            ),
            num_bytes=len(to_json([response, msgspec.to_builtins(list(asked))])),
        )
        shelf = self._shelves.setdefault(owner, _Shelf())
        shelf.add(response["id"], turn)
        while shelf.num_bytes > self._max_bytes_each:
            shelf.remove_first()
        while sum(one.num_bytes for one in self._shelves.values()) > self._max_bytes:
            max(self._shelves.values(), key=lambda one: one.num_bytes).remove_first()

    def get(self, owner: Owner, name: str) -> Kept:
        """Raises `UsageError` where there is none of that name, or not of this owner."""
        found = self._turns(owner).get(name)
        if found is None:
            raise UsageError(
                f"no response {name!r} is kept here",
                code="response.not-found",
                parameter="previous_response_id",
                hint="the server forgets them when it ends, or has more to keep; send all of the "
                "conversation again",
            )
        return found

    def history(self, owner: Owner, name: str) -> list[Item]:
        """All that was said up to a response, itself included; raises like `get`."""
        turns = list[Kept]()
        wanted: str | None = name
        while wanted is not None:
            turns.append(self.get(owner, wanted))
            self._turns(owner).move_to_end(wanted)
            wanted = turns[-1].previous
        return [item for turn in reversed(turns) for item in turn.items]

    def item(self, owner: Owner, item_id: str) -> Item:
        """A step that is meant by its name only; raises `UsageError` where there is none."""
        for turn in reversed(self._turns(owner).values()):
            for item in turn.items:
                if item.id == item_id:
                    return item
        raise UsageError(
            f"no item {item_id!r} is kept here",
            code="response.not-found",
            parameter="input",
            hint="send the item itself",
        )

    def forget(self, owner: Owner, name: str) -> None:
        """Raises like `get`."""
        self.get(owner, name)
        self._shelves[owner].remove(name)

    def _turns(self, owner: Owner) -> OrderedDict[str, Kept]:
        shelf = self._shelves.get(owner)
        return shelf.turns if shelf else OrderedDict()
