"""The addresses of Anthropic's Messages API."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt.serve.anthropic import errors, messages
from baremetalrt.serve.anthropic.schema import MessagesRequest
from baremetalrt.serve.decoding import decode
from baremetalrt.serve.desk import Complete, Desk


def routes(desk: Desk) -> list[Route]:
    """What this dialect answers, by way of the server."""

    def route(path: str, complete: Complete[MessagesRequest]) -> Route:
        async def handler(http: Request) -> Response:
            return await desk.answer(http, _read, complete)

        return Route(path, desk.guard(handler, errors), methods=["POST"])

    return [
        route("/v1/messages", messages.complete),
        route("/v1/messages/count_tokens", messages.count_tokens),
    ]


def _read(body: bytes) -> tuple[MessagesRequest, str]:
    """This dialect takes any field."""
    return decode(body, MessagesRequest), ""
