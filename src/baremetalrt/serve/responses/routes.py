"""The addresses of the Responses API."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt.serve.desk import Desk, Handler
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.openai import errors
from baremetalrt.serve.openai.reading import FieldReader
from baremetalrt.serve.responses.answers import Responses
from baremetalrt.serve.responses.kept import Kept
from baremetalrt.serve.responses.schema import ResponsesRequest
from baremetalrt.serve.responses.translation import as_json

_ONE = "/v1/responses/{name}"


def routes(desk: Desk, fields: FieldReader) -> list[Route]:
    """What this dialect answers, by way of the server."""
    responses = Responses()
    reader = fields.reading(ResponsesRequest)

    async def create(http: Request) -> Response:
        return await desk.answer(http, reader, responses.complete)

    def looking(say: Callable[[Kept], dict[str, Any]]) -> Handler:
        async def handler(http: Request) -> Response:
            kept = responses.kept.get(desk.owner_of(http), http.path_params["name"])
            return JsonResponse(say(kept))

        return desk.guard(handler, errors)

    async def delete(http: Request) -> Response:
        name = http.path_params["name"]
        responses.kept.forget(desk.owner_of(http), name)
        return JsonResponse({"id": name, "object": "response", "deleted": True})

    return [
        Route("/v1/responses", desk.guard(create, errors), methods=["POST"]),
        Route(_ONE, looking(lambda kept: kept.response), methods=["GET"]),
        Route(_ONE, desk.guard(delete, errors), methods=["DELETE"]),
        Route(f"{_ONE}/input_items", looking(_input_items), methods=["GET"]),
    ]


def _input_items(kept: Kept) -> dict[str, Any]:
    items = [as_json(item) for item in reversed(kept.asked)]
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": False,
    }
