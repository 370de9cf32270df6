"""What strangers may do to a server without having asked for anything. Pure: time and sizes come in.

Connections that have sent no whole request cost little each, and there is no end of them: so there is
room for so many, and who came last gets in, at the cost of who has waited longest without a word.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

# Clients connect a little before they ask, and keep their connections for a moment afterwards.
_SPARE: Final = 64
_ADDRESSES: Final = 4


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Bounds of each connection, and of all that have sent no whole request.

    `head_s`, `body_s`: how long a request may take to arrive. `stalled_s`: how long, in all, an answer
    may wait for a client that does not read, besides what it needs at `least_bytes_per_s`.
    """

    max_idle: int
    max_idle_per_address: int
    head_s: float = 10.0
    body_s: float = 60.0
    stalled_s: float = 30.0
    least_bytes_per_s: float = 1024.0


def limits_for(num_requests: int, max_files: int) -> ConnectionLimits:
    """For a server that takes so many requests at once, in a process that may open so many files."""
    # Models, torrents and requests need files, too.
    most = max(max_files // 4, (max_files - num_requests) // 2)
    each = min(2 * num_requests + _SPARE, most)
    return ConnectionLimits(max_idle=min(_ADDRESSES * each, most), max_idle_per_address=each)


class IdleConnections(Generic[T]):
    """Those that have sent no whole request, by address, the ones that have waited longest first."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        # Dictionaries keep the order in which things were put in.
        self._all: dict[T, str] = {}
        self._by_address: dict[str, dict[T, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: T, address: str) -> T | None:
        """It waits from now on; returns the one that has to go for it, if there are too many."""
        if connection in self._all:
            return None
        self._all[connection] = address
        here = self._by_address.setdefault(address, {})
        here[connection] = None
        if len(here) > self._limits.max_idle_per_address:
            victim = next(iter(here))
        elif len(self._all) > self._limits.max_idle:
            # An address that has many loses before one that has few.
            most = max(self._by_address.values(), key=len)
            victim = next(iter(most))
        else:
            return None
        self.discard(victim)
        return victim

    def discard(self, connection: T) -> None:
        """It waits no more: it has sent a request, or is gone."""
        address = self._all.pop(connection, None)
        if address is not None:
            here = self._by_address[address]
            del here[connection]
            if not here:
                del self._by_address[address]


class Patience:
    """How long one answer may wait for a client that reads slowly, or not at all."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self.renew()

    def renew(self) -> None:
        """For another answer."""
        self._left_s = self._limits.stalled_s

    def for_s(self, num_bytes: int) -> float:
        """Seconds that it may take to read these."""
        return self._left_s + num_bytes / self._limits.least_bytes_per_s

    def take(self, waited_s: float, num_bytes: int) -> None:
        """So long it took."""
        self._left_s -= max(0.0, waited_s - num_bytes / self._limits.least_bytes_per_s)
