"""What may be computed for one key: requests at once, and tokens within an hour. Pure but for a clock."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from baremetalrt.core.errors import CapacityError
from baremetalrt.serve.keys import ApiKey

_HOUR_S: Final = 3600.0
# What was computed is added up by the minute.
_GRAIN_S: Final = 60.0


class Allowances:
    """Counts what was computed for each key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._active: dict[str, int] = {}
        self._spent: dict[str, deque[tuple[float, int]]] = {}

    @contextmanager
    def request(self, key: ApiKey) -> Iterator[None]:
        """Holds one of the requests that a key may have at once.

        Raises:
            CapacityError: it has as many, or has had what it may have within an hour.
        """
        active = self._active.get(key.digest, 0)
        if key.max_active is not None and active >= key.max_active:
            raise CapacityError(
                f"the key {key.name!r} has {active} requests that are not answered yet",
                code="key.busy",
                needed=active + 1,
                available=key.max_active,
                hint="wait for one of them",
            )
        spent = self.spent(key)
        if key.tokens_per_hour is not None and spent >= key.tokens_per_hour:
            raise CapacityError(
                f"the key {key.name!r} has had its {key.tokens_per_hour} tokens of this hour",
                code="key.spent",
                needed=spent,
                available=key.tokens_per_hour,
                hint="ask again later",
            )
        self._active[key.digest] = active + 1
        try:
            yield
        finally:
            self._active[key.digest] -= 1
            if not self._active[key.digest]:
                del self._active[key.digest]

    def spend(self, key: ApiKey, num_tokens: int) -> None:
        """Counts tokens that were computed, of prompts and of answers."""
        if key.tokens_per_hour is None:
            return
        minute = self._clock() // _GRAIN_S * _GRAIN_S
        spent = self._spent.setdefault(key.digest, deque())
        if spent and spent[-1][0] == minute:
            num_tokens += spent.pop()[1]
        spent.append((minute, num_tokens))

    def spent(self, key: ApiKey) -> int:
        """How many were computed within the hour."""
        spent = self._spent.get(key.digest, deque())
        while spent and spent[0][0] <= self._clock() - _HOUR_S:
            spent.popleft()
        return sum(count for _, count in spent)
