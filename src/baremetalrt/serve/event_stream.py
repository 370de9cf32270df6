"""Answers that come piece by piece, as every dialect has them."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Final

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

EVENTS: Final = "text/event-stream"
JSON_LINES: Final = "application/x-ndjson"


class EventStream(EventSourceResponse):
    """Events as they go over the wire. A client that leaves, or is hung up on, closes their source.

    While nothing comes, a comment every 15 s says that the connection lives, where the `media_type` has
    comments. `held` is what the request holds meanwhile; it is let go in any case, even when nothing was
    sent.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        held: AsyncExitStack,
        media_type: str = EVENTS,
    ) -> None:
        ping_s = None if media_type == EVENTS else 0
        super().__init__(events, media_type=media_type, sep="\n", ping=ping_s)
        self._events = events
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._held.aclose()
