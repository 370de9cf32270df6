"""The addresses of Ollama's API."""

from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt.core.ids import folded
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.serve.decoding import decode
from baremetalrt.serve.desk import Complete, Desk, Handler
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.ollama import answers, errors, models
from baremetalrt.serve.ollama.pulling import Pulling
from baremetalrt.serve.ollama.schema import (
    OllamaChat,
    OllamaGenerate,
    OllamaPull,
    OllamaShow,
    keep_alive_of,
)

T = TypeVar("T", OllamaChat, OllamaGenerate)


def routes(desk: Desk) -> list[Route]:
    """What this dialect answers, by way of the server."""

    pulling = Pulling(desk.swarm)

    async def version(_http: Request) -> Response:
        return JsonResponse({"version": models.VERSION})

    async def tags(http: Request) -> Response:
        served = [(one.name, one.path) for one in desk.models.loaded(http)]
        served += [(one.name, one.path) for one in await desk.models.waiting(http)]
        return JsonResponse({"models": [await in_thread(models.tag, *one) for one in served]})

    async def running(http: Request) -> Response:
        loaded = [(m.name, m.path, m.context_limit) for m in desk.models.loaded(http)]
        return JsonResponse({"models": [await in_thread(models.running, *one) for one in loaded]})

    async def show(http: Request) -> Response:
        async with desk.body_of(http) as body:
            asked = decode(body, OllamaShow)
        name = (asked.model or asked.name).removesuffix(":latest")
        for waiting in await desk.models.waiting(http):
            if folded(name) == folded(waiting.name):
                # What it is, its file says: it need not be loaded for that.
                return JsonResponse(await in_thread(models.show, waiting.name, waiting.path))
        with ExitStack() as held:
            model = await desk.models.find(http, name, held)
        about = await in_thread(models.show, model.name, model.path, model.template.source)
        return JsonResponse(about)

    async def pull(http: Request) -> Response:
        desk.models.require_all(http)
        async with desk.body_of(http) as body:
            asked = decode(body, OllamaPull)
        return await pulling.answer(asked)

    def keeping(complete: Complete[T]) -> Complete[T]:
        """The same, and then the model stays as long as the request says."""

        async def completed(
            request: T, model: Model, counts: Counts, held: AsyncExitStack
        ) -> Response:
            keep_alive_s = keep_alive_of(request)
            if keep_alive_s is not None:
                desk.models.keep(model, keep_alive_s)
            return await complete(request, model, counts, held)

        return completed

    async def chat(http: Request) -> Response:
        return await desk.answer(http, partial(_read, kind=OllamaChat), keeping(answers.chat))

    async def generate(http: Request) -> Response:
        reader = partial(_read, kind=OllamaGenerate)
        return await desk.answer(http, reader, keeping(answers.generate))

    def route(path: str, handler: Handler, method: str) -> Route:
        return Route(path, desk.guard(handler, errors), methods=[method])

    return [
        route("/api/version", version, "GET"),
        route("/api/tags", tags, "GET"),
        route("/api/ps", running, "GET"),
        route("/api/show", show, "POST"),
        route("/api/pull", pull, "POST"),
        route("/api/chat", chat, "POST"),
        route("/api/generate", generate, "POST"),
    ]


def _read(body: bytes, kind: type[T]) -> tuple[T, str]:
    """This dialect takes any field."""
    return decode(body, kind), ""
