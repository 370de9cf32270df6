"""Our errors in Ollama's shape: one line of text."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from baremetalrt.core.errors import BareMetalError, outcome
from baremetalrt.serve.json_response import JsonResponse


def body(message: str) -> dict[str, Any]:
    return {"error": message}


def of(error: BareMetalError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body for one of our errors."""
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return outcome(error).http_status, body(message)


def error(error: BareMetalError) -> JsonResponse:
    """One of our errors, as an answer."""
    status, content = of(error)
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return JsonResponse(content, status_code=status, headers=headers)


def http(_request: Request, error: HTTPException) -> JsonResponse:
    """What is wrong with a request itself, as an answer."""
    return JsonResponse(body(error.detail), status_code=error.status_code, headers=error.headers)
