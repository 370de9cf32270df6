"""The one ledger of memory: what there is, what was promised of it, and how much each purpose may take.

A cache of keys and values is promised whole and filled as texts come: until then, nothing that the
system says of free memory shows it. Nor does it of weights in mapped files, which it would give to
whoever asks, to read them again in the next step. So promises are noted here, and every question counts
them.
"""

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from baremetalrt.devices.memory import Resident, available_bytes, resident


class Purpose(Enum):
    """What memory is asked for."""

    # mapped weights that are read at once, before they are asked for
    READ_AHEAD = auto()
    # weights, keys and values of spans that are hosted for peers
    SHARING = auto()
    # everything that a fine-tune holds, besides what is resident when it begins
    TUNING = auto()
    # the file of a model that is to run here at all: mapped, it may fill all that is free
    WHOLE_MODEL = auto()


# Of what is free. The rest is for the mapped file, which the system may drop and read again, and for
# everybody else.
_SHARES: Final = {
    Purpose.READ_AHEAD: 0.5,
    Purpose.SHARING: 0.75,
    Purpose.TUNING: 0.7,
    Purpose.WHOLE_MODEL: 1.0,
}


class Promise:
    """Memory that somebody may fill later; `keep` it until then, `withdraw` it in the end."""

    def __init__(self, ledger: "MemoryLedger", unfilled: Callable[[], int]) -> None:
        self.unfilled = unfilled
        self._ledger = ledger

    def withdraw(self) -> None:
        self._ledger.forget(self)


class MemoryLedger:
    """Safe to use from several threads. `free_bytes` and `held` are what the system says."""

    def __init__(
        self,
        free_bytes: Callable[[], int] = available_bytes,
        held: Callable[[], Resident] = resident,
    ) -> None:
        self._free_bytes = free_bytes
        self._held = held
        self._promises: set[Promise] = set()
        self._lock = threading.Lock()
        self._limit_bytes: int | None = None
        # Of the program itself and its libraries, before any weights were mapped.
        self._file_bytes = 0

    def limit(self, num_bytes: int) -> None:
        """From now on this process and those that it starts take at most so much, as `ps` counts it.

        Call it before anything is loaded.
        """
        self._limit_bytes = num_bytes
        self._file_bytes = self._held().file_bytes

    def free(self) -> int:
        """Bytes that can be taken without pushing anything out, and that nobody was promised."""
        with self._lock:
            promised = sum(promise.unfilled() for promise in self._promises)
        free = self._free_bytes()
        if self._limit_bytes is not None:
            free = min(free, self._limit_bytes - self._held().own_bytes - self._file_bytes)
        return max(0, free - promised)

    def room_for(self, purpose: Purpose, free_bytes: int | None = None) -> int:
        """Bytes that a purpose may take now; of `free_bytes`, where that is not this machine's memory."""
        return int((self.free() if free_bytes is None else free_bytes) * _SHARES[purpose])

    def promise(self, unfilled: Callable[[], int]) -> Promise:
        """Notes memory that is not taken yet; `unfilled` says how much of it is left to take."""
        promise = Promise(self, unfilled)
        with self._lock:
            self._promises.add(promise)
        return promise

    def forget(self, promise: Promise) -> None:
        with self._lock:
            self._promises.discard(promise)


# Of this process.
LEDGER: Final = MemoryLedger()
