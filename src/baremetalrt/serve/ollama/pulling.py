"""`/api/pull`: a model fetched by its name, with what has come of it line by line."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from starlette.responses import Response

from baremetalrt.core.errors import BareMetalError, CapacityError, UsageError
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.events import Chosen, Event, Fetching, Hashing
from baremetalrt.node.hub_models import pull_from_hub
from baremetalrt.node.names import hint_for, meant_by
from baremetalrt.node.naming import is_hub_name
from baremetalrt.node.options import SwarmOptions
from baremetalrt.serve.event_stream import JSON_LINES, EventStream
from baremetalrt.serve.json_response import JsonResponse, to_json
from baremetalrt.serve.ollama import errors
from baremetalrt.serve.ollama.schema import OllamaPull

Line = dict[str, Any]


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
            return EventStream(_as_text(lines), AsyncExitStack(), JSON_LINES)
        said = [line async for line in lines]
        return JsonResponse(said[-1])

    async def _lines(self, source: str) -> AsyncGenerator[Line, None]:
        if self._fetching.locked():
            raise CapacityError(
                "another model is being fetched", code="queue.full", hint="pull it after that one"
            )
        loop, has_left = asyncio.get_running_loop(), threading.Event()
        said: asyncio.Queue[Line | None] = asyncio.Queue()

        def on_event(event: Event) -> None:
            if has_left.is_set():
                raise _Left
            if (line := _line_of(event)) is not None:
                loop.call_soon_threadsafe(said.put_nowait, line)

        async with self._fetching:
            yield {"status": "pulling manifest"}
            work = asyncio.ensure_future(
                in_thread(partial(pull_from_hub, source, on_event, swarm=self._swarm))
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


def _line_of(event: Event) -> Line | None:
    if isinstance(event, Chosen):
        return {"status": f"pulling {event.name}", "total": event.num_bytes, "completed": 0}
    if isinstance(event, Fetching):
        done = {"total": event.wanted_bytes, "completed": event.have_bytes}
        return {"status": f"pulling {event.name}", "digest": event.name, **done}
    return {"status": "writing manifest"} if isinstance(event, Hashing) else None


async def _as_text(lines: AsyncGenerator[Line, None]) -> AsyncGenerator[bytes, None]:
    """Lines as they go over the wire; an error of ours is the last of them."""
    try:
        async for line in lines:
            yield to_json(line) + b"\n"
    except BareMetalError as error:
        yield to_json(errors.of(error)[1]) + b"\n"
    finally:
        await lines.aclose()
