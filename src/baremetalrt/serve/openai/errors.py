"""Our errors in OpenAI's shape."""

from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from baremetalrt.core.errors import BareMetalError, UsageError, one_line, outcome
from baremetalrt.serve.json_response import JsonResponse

_CODES = {
    "context.exceeded": "context_length_exceeded",
    "model.not-found": "model_not_found",
    "queue.full": "rate_limit_exceeded",
}
PATHS_HINT: Final = (
    "clients take this server's address with /v1 behind it as base URL, and then ask "
    "POST /v1/chat/completions, POST /v1/responses, POST /v1/completions or GET /v1/models"
)
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def body(
    message: str, *, status: int, code: str | None = None, parameter: str | None = None
) -> dict[str, Any]:
    """`{"error": …}` as OpenAI's clients parse it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


def of(error: BareMetalError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body for one of our errors."""
    status = outcome(error).http_status
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    parameter = error.parameter if isinstance(error, UsageError) else None
    code = _CODES.get(error.code, error.code)
    return status, body(message, status=status, code=code, parameter=parameter)


def error(error: BareMetalError) -> JsonResponse:
    """One of our errors, as an answer."""
    status, content = of(error)
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return JsonResponse(content, status_code=status, headers=headers)


def http(request: Request, error: HTTPException) -> JsonResponse:
    """What is wrong with a request itself, as an answer."""
    status, message = error.status_code, error.detail
    if status in (404, 405):
        message = f"{request.method} {one_line(request.url.path)} is nothing here; {PATHS_HINT}"
    return JsonResponse(body(message, status=status), status_code=status, headers=error.headers)
