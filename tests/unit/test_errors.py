"""Every error ends up where its reader can act on it."""

import pytest

from baremetalrt.core.errors import (
    BareMetalError,
    CapacityError,
    IntegrityError,
    Outcome,
    UsageError,
    outcome,
)
from baremetalrt.serve.openai import errors as http


class _Finer(CapacityError):
    """A kind of error that the table does not know by name."""


@pytest.mark.parametrize(
    ("error", "exit_status", "http_status"),
    [
        (UsageError("x"), 2, 400),
        (UsageError("x", code="model.not-found"), 2, 404),
        (IntegrityError("x", source="model.gguf"), 3, 500),
        (CapacityError("x"), 4, 503),
        (CapacityError("x", code="queue.full"), 4, 429),
        (_Finer("x"), 4, 503),
        (BareMetalError("x"), 1, 500),
    ],
)
def test_exit_and_http_status(error: BareMetalError, exit_status: int, http_status: int) -> None:
    """By the code first, then by what the caller can do."""
    assert outcome(error) == Outcome(exit_status=exit_status, http_status=http_status)
    assert http.error(error).status_code == http_status


def test_codes_do_not_depend_on_words() -> None:
    """Each class has a code of its own, which a finer one replaces."""
    assert UsageError("x").code == "usage"
    assert IntegrityError("x", source="y").code == "integrity"
    assert CapacityError("x").code == "capacity"
    assert CapacityError("x", code="cache.full").code == "cache.full"


def test_an_http_client_reads_message_hint_and_parameter() -> None:
    """In the shape and with the codes that OpenAI's clients know."""
    error = UsageError("too long", code="context.exceeded", hint="cut it", parameter="messages")
    status, content = http.of(error)
    assert status == 400
    assert content["error"] == {
        "message": "too long (cut it)",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }


@pytest.mark.parametrize(
    ("error", "kind", "retry"),
    [
        (CapacityError("x", code="queue.full"), "rate_limit_error", "1"),
        (CapacityError("x"), "server_error", "1"),
        (IntegrityError("x", source="y"), "server_error", None),
        (UsageError("x"), "invalid_request_error", None),
    ],
)
def test_only_what_may_pass_is_worth_a_retry(
    error: BareMetalError, kind: str, retry: str | None
) -> None:
    """A full queue or cache empties; a damaged model does not mend."""
    assert http.error(error).headers.get("retry-after") == retry
    assert http.of(error)[1]["error"]["type"] == kind
