"""Which part is to be read into which slot next. Pure: reads and their ends are reported to it.

Parts are read round and round, as they are computed. Whoever asks for another one than the next sends
the reading there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto


class _State(Enum):
    EMPTY = auto()
    READING = auto()
    READY = auto()
    IN_USE = auto()


@dataclass
class _Slot:
    part: int = -1
    state: _State = _State.EMPTY
    # What is in it, or on its way, is not what comes next any more.
    is_stale: bool = False


class ReadAhead:
    """`slot_of[i]` is the slot that streamed part `i` always goes to."""

    def __init__(self, slot_of: Sequence[int]) -> None:
        self._slot_of = tuple(slot_of)
        self._slots = [_Slot() for _ in range(max(slot_of, default=-1) + 1)]
        self._next = 0

    def next_read(self) -> int | None:
        """The part whose reading should begin now, if its slot can take it; `begin` it."""
        slot = self._slots[self._slot_of[self._next]]
        is_free = slot.state is _State.EMPTY or (slot.state is _State.READY and slot.is_stale)
        return self._next if is_free else None

    def begin(self, part: int) -> None:
        """The reading of what `next_read` said has begun."""
        self._slots[self._slot_of[part]] = _Slot(part, _State.READING)
        self._next = (part + 1) % len(self._slot_of)

    def end(self, part: int, *, ok: bool) -> None:
        """A reading is over; what failed is read again when it is asked for again."""
        self._slots[self._slot_of[part]].state = _State.READY if ok else _State.EMPTY

    def request(self, part: int) -> bool:
        """Whether the part is there, and from now on in use; else its reading is next, or on its way."""
        slot = self._slots[self._slot_of[part]]
        if slot.part == part and slot.state is _State.READY:
            slot.state = _State.IN_USE
            return True
        if slot.part != part or slot.state is not _State.READING:
            self._turn_to(part)
        return False

    def release(self, part: int) -> None:
        """The part was computed: its slot may take another."""
        self._slots[self._slot_of[part]].state = _State.EMPTY

    def _turn_to(self, part: int) -> None:
        """What was read ahead of it is not wanted before it: those slots may be taken."""
        self._next = part
        for slot in self._slots:
            slot.is_stale = True
