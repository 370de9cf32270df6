"""A queue that is full by number or by bytes: whoever fills it waits."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Allowance:
    """What several queues may hold together, such as those of one member."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Returns once it is so; it is looked at whenever something was put or taken."""
        while not is_so():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def add(self, num_bytes: int) -> None:
        """So much was put, or, where it is negative, taken."""
        self.num_bytes += num_bytes
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class BoundedQueue(Generic[T]):
    """First in, first out. An item of whatever size passes when nothing else is in the queue.

    Without that, two queues of one allowance could wait for each other.
    """

    def __init__(self, *, max_items: int, max_bytes: int, shared: Allowance | None = None) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[T, int]] = deque()
        self.num_bytes = 0
        self._shared = shared or Allowance(max_bytes)

    def _has_room(self, num_bytes: int) -> bool:
        if not self._items:
            return True
        shared = self._shared
        fits = self.num_bytes + num_bytes <= self._max_bytes
        fits = fits and shared.num_bytes + num_bytes <= shared.max_bytes
        return fits and len(self._items) < self._max_items

    async def put(self, item: T, num_bytes: int) -> None:
        """Waits until there is room."""
        await self._shared.wait_for(lambda: self._has_room(num_bytes))
        self._items.append((item, num_bytes))
        self._hold(num_bytes)

    async def get(self) -> T:
        """Waits until there is an item."""
        await self._shared.wait_for(lambda: len(self._items) > 0)
        item, num_bytes = self._items.popleft()
        self._hold(-num_bytes)
        return item

    def clear(self) -> None:
        """Nobody takes what is left."""
        self._items.clear()
        self._hold(-self.num_bytes)

    def _hold(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self._shared.add(num_bytes)
