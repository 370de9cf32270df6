"""How many requests are answered at once, how many wait, and what the rest are told."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from baremetalrt.core.errors import CapacityError


class Admission:
    """`max_active` requests run, `max_waiting` more wait in order, further ones are refused."""

    def __init__(self, *, max_active: int, max_waiting: int) -> None:
        self.max_active = max_active
        self.max_waiting = max_waiting
        self.active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Holds one of the places.

        Raises:
            CapacityError: the queue is full.
        """
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self.active < self.max_active:
            self.active += 1
            return
        if len(self._waiting) >= self.max_waiting:
            raise CapacityError(
                f"{self.active} requests are being answered and {self.waiting} are waiting",
                code="queue.full",
                needed=1,
                available=0,
                hint="try again in a moment",
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            # Whoever leaves hands its place over: `active` does not change.
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.active -= 1
