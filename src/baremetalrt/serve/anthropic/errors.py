"""Our errors in Anthropic's shape."""

from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from baremetalrt.core.errors import BareMetalError, outcome
from baremetalrt.serve.json_response import JsonResponse

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def body(message: str, status: int) -> dict[str, Any]:
    """`{"type": "error", …}` as Anthropic's clients parse it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def of(error: BareMetalError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body for one of our errors."""
    status = outcome(error).http_status
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return status, body(message, status)


def error(error: BareMetalError) -> JsonResponse:
    """One of our errors, as an answer."""
    status, content = of(error)
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return JsonResponse(content, status_code=status, headers=headers)


def http(_request: Request, error: HTTPException) -> JsonResponse:
    """What is wrong with a request itself, as an answer."""
    said = body(error.detail, error.status_code)
    return JsonResponse(said, status_code=error.status_code, headers=error.headers)
