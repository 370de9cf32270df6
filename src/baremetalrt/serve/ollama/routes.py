"""The addresses of Ollama's API."""

from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt.core.ids import folded
from baremetalrt.core.tasks import in_thread
from baremetalrt.serve.decoding import decode
from baremetalrt.serve.desk import Desk, Handler
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.ollama import answers, errors, models
from baremetalrt.serve.ollama.schema import OllamaChat, OllamaGenerate, OllamaShow

T = TypeVar("T", OllamaChat, OllamaGenerate)


def routes(desk: Desk) -> list[Route]:
    """What this dialect answers, by way of the server."""

    async def version(_http: Request) -> Response:
        return JsonResponse({"version": models.VERSION})

    async def tags(_http: Request) -> Response:
        served = [*((model.name, model.path) for model in desk.loaded), *desk.waiting]
        return JsonResponse({"models": [await in_thread(models.tag, *one) for one in served]})

    async def running(_http: Request) -> Response:
        loaded = [(m.name, m.path, m.context_limit) for m in desk.loaded]
        return JsonResponse({"models": [await in_thread(models.running, *one) for one in loaded]})

    async def show(http: Request) -> Response:
        async with desk.body_of(http) as body:
            asked = decode(body, OllamaShow)
        name = (asked.model or asked.name).removesuffix(":latest")
        for waiting, path in desk.waiting:
            if folded(name) == folded(waiting):
                # What it is, its file says: it need not be loaded for that.
                return JsonResponse(await in_thread(models.show, waiting, path))
        with ExitStack() as held:
            model = await desk.find(name, held)
        about = await in_thread(models.show, model.name, model.path, model.template.source)
        return JsonResponse(about)

    async def chat(http: Request) -> Response:
        return await desk.answer(http, partial(_read, kind=OllamaChat), answers.chat)

    async def generate(http: Request) -> Response:
        return await desk.answer(http, partial(_read, kind=OllamaGenerate), answers.generate)

    def route(path: str, handler: Handler, method: str) -> Route:
        return Route(path, desk.guard(handler, errors), methods=[method])

    return [
        route("/api/version", version, "GET"),
        route("/api/tags", tags, "GET"),
        route("/api/ps", running, "GET"),
        route("/api/show", show, "POST"),
        route("/api/chat", chat, "POST"),
        route("/api/generate", generate, "POST"),
    ]


def _read(body: bytes, kind: type[T]) -> tuple[T, str]:
    """This dialect takes any field."""
    return decode(body, kind), ""
