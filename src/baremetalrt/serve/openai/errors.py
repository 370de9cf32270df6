"""Our errors in OpenAI's shape."""

from typing import Any

from baremetalrt.core.errors import BareMetalError, UsageError, outcome
from baremetalrt.serve.json_response import JsonResponse

_CODES = {
    "context.exceeded": "context_length_exceeded",
    "model.not-found": "model_not_found",
    "queue.full": "rate_limit_exceeded",
}
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


def response(error: BareMetalError) -> JsonResponse:
    status, content = of(error)
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return JsonResponse(content, status_code=status, headers=headers)
