"""How many requests are answered at once, how many wait, and what the rest are told."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.serve.fair_queue import FairQueue

_Turn = asyncio.Future[None]


class Admission:
    """`max_active` requests run, `max_waiting` more wait, further ones are refused.

    Owners take turns, by the time that their requests take: one that asks for much waits for itself.
    Those of one owner wait in order. A place to wait goes to who has fewer of them.
    """

    def __init__(
        self,
        *,
        max_active: int,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_active = max_active
        self.max_waiting = max_waiting
        self.active = 0
        self._clock = clock
        self._queue: FairQueue[Owner, _Turn] = FairQueue()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def slot(self, owner: Owner = THIS_USER) -> AsyncIterator[None]:
        """Holds one of the places.

        Raises:
            CapacityError: the queue is full.
        """
        await self._enter(owner)
        began_at = self._clock()
        try:
            yield
        finally:
            self._leave(owner, self._clock() - began_at)

    async def _enter(self, owner: Owner) -> None:
        if self.active < self.max_active:
            self.active += 1
            self._queue.begin(owner)
            return
        if self.waiting >= self.max_waiting:
            displaced = self._queue.displaced_by(owner)
            if displaced is None:
                raise self._full()
            displaced.set_exception(self._full())
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._queue.add(owner, turn)
        try:
            # Whoever leaves hands its place over: `active` does not change.
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave(owner, 0.0)
            else:
                self._queue.discard(owner, turn)
            raise

    def _leave(self, owner: Owner, took_s: float) -> None:
        self._queue.end(owner, took_s)
        while (following := self._queue.next()) is not None:
            owner, turn = following
            if not turn.done():
                turn.set_result(None)
                return
            self._queue.end(owner, 0.0)
        self.active -= 1

    def _full(self) -> CapacityError:
        return CapacityError(
            f"{self.active} requests are being answered and {self.waiting} are waiting",
            code="queue.full",
            needed=1,
            available=0,
            hint="try again in a moment",
        )
