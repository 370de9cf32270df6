"""`/api/pull`: a model fetched by its name, with what has come of it line by line."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from functools import partial

from starlette.responses import Response

from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.tasks import in_thread
from baremetalrt.hosting.nearby import hub_offers
from baremetalrt.node import events
from baremetalrt.node.hub_models import pull_from_hub
from baremetalrt.node.names import hint_for, meant_by
from baremetalrt.node.naming import is_hub_name
from baremetalrt.node.options import SwarmOptions
from baremetalrt.serve.event_stream import JSON_LINES, Event, EventStream, json_line, written
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.ollama import errors
from baremetalrt.serve.ollama.schema import OllamaPull


class _Left(Exception):
    """Nobody waits for it any more."""


class Pulling:
    """Fetches one model after the other."""

    def __init__(self, swarm: SwarmOptions) -> None:
        self._swarm = swarm
        self._fetching = asyncio.Lock()

    async def answer(self, request: OllamaPull) -> Response:
        """Lines, or the last of them; raises `UsageError` for a name that means no model of a hub."""
        name = (request.model or request.name).removesuffix(":latest")
        source = await in_thread(meant_by, name)
        if not is_hub_name(source):
            raise UsageError(
                f"{name!r} is no name that can be pulled over HTTP",
                code="model.not-found",
                parameter="model",
                hint=hint_for(name) or "hf:OWNER/REPO, or a name of `bmrt index ls`",
            )
        lines = self._lines(source)
        if request.stream is not False:
            text = written(lines, json_line, lambda error: errors.of(error)[1])
            return EventStream(text, AsyncExitStack(), JSON_LINES)
        said = [line async for line in lines]
        return JsonResponse(said[-1])

    async def _lines(self, source: str) -> AsyncGenerator[Event, None]:
        if self._fetching.locked():
            raise CapacityError(
                "another model is being fetched", code="queue.full", hint="pull it after that one"
            )
        loop, has_left = asyncio.get_running_loop(), threading.Event()
        said: asyncio.Queue[Event | None] = asyncio.Queue()

        def on_event(event: events.Event) -> None:
            if has_left.is_set():
                raise _Left
            if (line := _line_of(event)) is not None:
                loop.call_soon_threadsafe(said.put_nowait, line)

        async with self._fetching:
            yield {"status": "pulling manifest"}
            work = asyncio.ensure_future(
                in_thread(
                    partial(pull_from_hub, source, on_event, swarm=self._swarm, offers=hub_offers)
                )
            )
            work.add_done_callback(lambda _: said.put_nowait(None))
            try:
                while (line := await said.get()) is not None:
                    yield line
                await work
            finally:
                has_left.set()
                if not work.done():
                    # What has come is kept; the thread ends with the next piece.
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)
            yield {"status": "success"}


def _line_of(event: events.Event) -> Event | None:
    if isinstance(event, events.Chosen):
        return {"status": f"pulling {event.name}", "total": event.num_bytes, "completed": 0}
    if isinstance(event, events.Fetching):
        done = {"total": event.wanted_bytes, "completed": event.have_bytes}
        return {"status": f"pulling {event.name}", "digest": event.name, **done}
    return {"status": "writing manifest"} if isinstance(event, events.Hashing) else None
