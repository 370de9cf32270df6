"""Ownership of C objects: each is freed exactly once, by `close` or when nobody refers to it."""

import weakref
from collections.abc import Callable
from typing import Self

from baremetalrt.core.errors import CapacityError


class Handle:
    """Owns the C object at `pointer`. Whoever holds memory inside it must keep a reference to it."""

    def __init__(self, pointer: int | None, free: Callable[[int], None], *, what: str) -> None:
        if not pointer:
            raise CapacityError(f"the library could not allocate {what}", code="native.allocation")
        self.pointer: int = pointer
        self._finalizer = weakref.finalize(self, free, pointer)
        # At interpreter exit a compute thread may still be inside the library: the system reclaims.
        self._finalizer.atexit = False

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        """Frees the C object; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
