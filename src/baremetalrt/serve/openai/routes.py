"""The addresses of OpenAI's API under which something is computed."""

from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt.serve.desk import Complete, Desk
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.openai import chat, completions, errors
from baremetalrt.serve.openai.reading import FieldReader
from baremetalrt.serve.openai.schema import ChatRequest, CompletionRequest

T = TypeVar("T", ChatRequest, CompletionRequest)


def routes(desk: Desk, fields: FieldReader) -> list[Route]:
    """What this dialect answers, by way of the server."""

    def route(path: str, kind: type[T], complete: Complete[T]) -> Route:
        reader = fields.reading(kind)

        async def handler(http: Request) -> Response:
            return await desk.answer(http, reader, complete)

        return Route(path, desk.guard(handler, errors), methods=["POST"])

    return [
        route("/v1/chat/completions", ChatRequest, chat.complete),
        route("/v1/completions", CompletionRequest, completions.complete),
    ]


def model_routes(desk: Desk) -> list[Route]:
    """Which models there are, as this dialect says it."""

    async def listed(http: Request) -> Response:
        return JsonResponse({"object": "list", "data": await desk.models.cards(http)})

    async def one(http: Request) -> Response:
        return JsonResponse(await desk.models.card(http, http.path_params["name"]))

    return [
        Route("/v1/models", desk.guard(listed, errors)),
        Route("/v1/models/{name:path}", desk.guard(one, errors)),
    ]
