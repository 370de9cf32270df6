"""Server-sent events, as every dialect has them."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send


class EventStream(EventSourceResponse):
    """Events as they go over the wire. A client that leaves, or is hung up on, closes their source.

    While nothing comes, a comment every 15 s says that the connection lives. `held` is what the request
    holds meanwhile; it is let go in any case, even when nothing was sent.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], held: AsyncExitStack) -> None:
        super().__init__(events, sep="\n")
        self._events = events
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._held.aclose()
