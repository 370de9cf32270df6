"""Answers that come piece by piece, as every dialect has them."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from baremetalrt.core.errors import BareMetalError
from baremetalrt.serve.json_response import to_json

EVENTS: Final = "text/event-stream"
JSON_LINES: Final = "application/x-ndjson"


Event = dict[str, Any]


async def written(
    events: AsyncGenerator[Event, None],
    write: Callable[[Event], bytes],
    said: Callable[[BareMetalError], Event],
    end: bytes = b"",
) -> AsyncGenerator[bytes, None]:
    """Events as they go over the wire, and the `end`; an error of ours, as it is `said`, is the last."""
    async with aclosing(events) as each:
        try:
            async for event in each:
                yield write(event)
            if end:
                yield end
        except BareMetalError as error:
            yield write(said(error))


def data(event: Event) -> bytes:
    """An event without a name."""
    return b"data: " + to_json(event) + b"\n\n"


def named_data(event: Event) -> bytes:
    """An event by the name of its type."""
    return b"event: " + str(event["type"]).encode() + b"\n" + data(event)


def json_line(event: Event) -> bytes:
    return to_json(event) + b"\n"


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

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        """The library's, without its timeout: connections have bounds of their own, and a scope for each
        token costs more than its JSON."""
        await send(message)
