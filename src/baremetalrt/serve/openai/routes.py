"""The addresses of OpenAI's API under which something is computed."""

import logging
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt.serve.desk import Complete, Desk
from baremetalrt.serve.openai import chat, completions, errors
from baremetalrt.serve.openai.reading import read
from baremetalrt.serve.openai.schema import ChatRequest, CompletionRequest

_log = logging.getLogger("baremetalrt")
_MAX_TOLD: Final = 100

T = TypeVar("T", ChatRequest, CompletionRequest)


def routes(desk: Desk, *, is_strict: bool) -> list[Route]:
    """What this dialect answers, by way of the server; `is_strict` refuses fields that nobody knows."""
    told: set[str] = set()

    def route(path: str, kind: type[T], complete: Complete[T]) -> Route:
        def reader(body: bytes) -> tuple[T, str]:
            found = read(body, kind, is_strict=is_strict)
            return found.request, _tell(found.ignored, told)

        async def handler(http: Request) -> Response:
            return await desk.answer(http, reader, complete)

        return Route(path, desk.guard(handler, errors), methods=["POST"])

    return [
        route("/v1/chat/completions", ChatRequest, chat.complete),
        route("/v1/completions", CompletionRequest, completions.complete),
    ]


def _tell(ignored: tuple[str, ...], told: set[str]) -> str:
    """The fields that are ignored, as a header says them; the log says each once."""
    # They are a stranger's text.
    names = [name for name in ignored if name.isidentifier() and name.isascii()]
    for name in names:
        if name not in told and len(told) < _MAX_TOLD:
            told.add(name)
            _log.warning("requests have the field %s, which is ignored", name)
    return ", ".join(names)
