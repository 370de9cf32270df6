"""Bodies of requests as typed values, for dialects that leave out what they do not know."""

from typing import TypeVar

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.text_input import decode_bom

T = TypeVar("T")


def decode(body: bytes, kind: type[T]) -> T:
    """A request from its JSON.

    Raises:
        UsageError: not JSON, a field of the wrong type, or out of bounds.
    """
    # Programs that write files with a BOM send bodies with one.
    decoded = decode_bom(body)
    try:
        return msgspec.json.decode(body if decoded is None else decoded, type=kind)
    except msgspec.ValidationError as error:
        raise UsageError(str(error), code="request.invalid") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"the body is not JSON: {error}", code="request.not-json") from error


def convert(fields: object, kind: type[T]) -> T:
    """A request from what another one says; raises likewise."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise UsageError(str(error), code="request.invalid") from error
