"""What a client sends, and whether it is still there."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_DEADLINE_S: Final = 30.0
_MAX_BYTES: Final = 16 * 1024 * 1024
# Of all requests that are being sent, or wait; short ones have room in any case.
_MAX_BYTES_TOGETHER: Final = 8 * _MAX_BYTES
_SHORT_BYTES: Final = 1024 * 1024


class Bodies:
    """The bodies of requests that are not answered yet, within bounds of size and time."""

    def __init__(self) -> None:
        self._num_bytes = 0

    @asynccontextmanager
    async def of(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body; it counts as long as the block lasts.

        Raises:
            HTTPException: it is too long, too slow, or too much beside others.
        """
        body = bytearray()
        try:
            await self._receive(request, body)
            yield bytes(body)
        finally:
            self._num_bytes -= len(body)

    async def _receive(self, request: Request, body: bytearray) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                async for chunk in request.stream():
                    body += chunk
                    self._num_bytes += len(chunk)
                    if len(body) > _MAX_BYTES:
                        raise HTTPException(413, f"the body is longer than {_MAX_BYTES} bytes")
                    if len(body) > _SHORT_BYTES and self._num_bytes > _MAX_BYTES_TOGETHER:
                        raise HTTPException(503, "too much is being sent at once; try again")
        except TimeoutError as error:
            raise HTTPException(408, "the body did not arrive in time") from error


async def unless_disconnected(
    request: Request, answering: Coroutine[Any, Any, Response]
) -> Response | None:
    """The answer, or None when the client went away first; then it is made no further."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, watcher = asyncio.create_task(answering), asyncio.create_task(gone())
    try:
        await asyncio.wait([work, watcher], return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, watcher):
            task.cancel()
        await asyncio.gather(work, watcher, return_exceptions=True)
