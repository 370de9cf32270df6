"""The addresses of OpenAI's API under which something is computed."""

from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt.serve.desk import Complete, Desk
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
