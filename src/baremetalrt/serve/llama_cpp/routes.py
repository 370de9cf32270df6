"""The addresses that llama.cpp's server has besides those of OpenAI's API."""

from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt.serve.decoding import decode
from baremetalrt.serve.desk import Asked, Complete, Desk
from baremetalrt.serve.llama_cpp import infill, tokens
from baremetalrt.serve.llama_cpp.schema import DetokenizeRequest, InfillRequest, TokenizeRequest
from baremetalrt.serve.openai import errors
from baremetalrt.serve.openai.schema import ChatRequest

T = TypeVar("T", bound=Asked)


def routes(desk: Desk) -> list[Route]:
    """What this dialect answers, by way of the server."""

    def route(path: str, kind: type[T], complete: Complete[T]) -> Route:
        async def handler(http: Request) -> Response:
            return await desk.answer(http, partial(_read, kind=kind), complete)

        return Route(path, desk.guard(handler, errors), methods=["POST"])

    return [
        route("/tokenize", TokenizeRequest, tokens.tokenize),
        route("/detokenize", DetokenizeRequest, tokens.detokenize),
        route("/apply-template", ChatRequest, tokens.apply_template),
        route("/infill", InfillRequest, infill.infill),
    ]


def _read(body: bytes, kind: type[T]) -> tuple[T, str]:
    """This dialect takes any field."""
    return decode(body, kind), ""
