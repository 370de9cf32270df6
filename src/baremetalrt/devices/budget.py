"""The one ledger of memory: what there is, what was promised of it, and how much each purpose may take.

A cache of keys and values is promised whole and filled as texts come: until then, nothing that the
system says of free memory shows it. So promises are noted here, and every question counts them.
"""

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from baremetalrt.devices.memory import available_bytes


class Purpose(Enum):
    """What memory is asked for."""

    # keys and values of the texts of a model that is loaded
    CACHE = auto()
    # weights that are copied into the order in which they multiply fastest
    COPIES = auto()
    # the same on a device with memory of its own, which holds nothing but what is copied there
    DEVICE_WEIGHTS = auto()
    # mapped weights that are read at once, before they are asked for
    READ_AHEAD = auto()
    # weights, keys and values of spans that are hosted for peers
    SHARING = auto()
    # everything that a fine-tune holds, besides what is resident when it begins
    TUNING = auto()
    # the file of a model that is to run here at all: mapped, it may fill all that is free
    WHOLE_MODEL = auto()
    # what the user asks for in so many words is refused only where it cannot be
    ASKED_FOR = auto()


# Of what is free. The rest is for the mapped file, which the system may drop and read again, and for
# everybody else.
_SHARES: Final = {
    Purpose.CACHE: 0.25,
    Purpose.COPIES: 0.5,
    Purpose.DEVICE_WEIGHTS: 1.0,
    Purpose.READ_AHEAD: 0.5,
    Purpose.SHARING: 0.75,
    Purpose.TUNING: 0.7,
    Purpose.WHOLE_MODEL: 1.0,
    Purpose.ASKED_FOR: 1.0,
}


class Promise:
    """Memory that somebody may fill later; `keep` it until then, `withdraw` it in the end."""

    def __init__(self, ledger: "MemoryLedger", unfilled: Callable[[], int]) -> None:
        self.unfilled = unfilled
        self._ledger = ledger

    def withdraw(self) -> None:
        self._ledger.forget(self)


class MemoryLedger:
    """Safe to use from several threads. `free_bytes` is what the system says."""

    def __init__(self, free_bytes: Callable[[], int] = available_bytes) -> None:
        self._free_bytes = free_bytes
        self._promises: set[Promise] = set()
        self._lock = threading.Lock()

    def free(self) -> int:
        """Bytes that can be taken without pushing anything out, and that nobody was promised."""
        with self._lock:
            promised = sum(promise.unfilled() for promise in self._promises)
        return max(0, self._free_bytes() - promised)

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
