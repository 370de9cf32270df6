"""A queue that is full by number or by bytes: whoever fills it waits."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """First in, first out. An item larger than `max_bytes` passes when nothing else is there."""

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[T, int]] = deque()
        self.num_bytes = 0
        self._changed = asyncio.Condition()

    def _has_room(self, num_bytes: int) -> bool:
        if not self._items:
            return True
        fits = self.num_bytes + num_bytes <= self._max_bytes
        return fits and len(self._items) < self._max_items

    async def put(self, item: T, num_bytes: int) -> None:
        """Waits until there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_room(num_bytes))
            self._items.append((item, num_bytes))
            self.num_bytes += num_bytes
            self._changed.notify_all()

    async def get(self) -> T:
        """Waits until there is an item."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._items) > 0)
            item, num_bytes = self._items.popleft()
            self.num_bytes -= num_bytes
            self._changed.notify_all()
            return item
