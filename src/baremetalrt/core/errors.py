"""The errors a caller can act on, and where each one ends up.

Errors follow what the caller does next: tell the user (`UsageError`), discard and blame the source
(`IntegrityError`), plan again or wait (`CapacityError`). Anything else is a bug and keeps its trace.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

# Messages quote what is in files of strangers.
_MAX_LINE_CHARS: Final = 500


def one_line(text: str) -> str:
    """`text` on one line that a terminal can take: not too long, and without control characters."""
    line = text[: _MAX_LINE_CHARS + 1]
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line if len(line) <= _MAX_LINE_CHARS else line[: _MAX_LINE_CHARS - 1] + "…"


class BareMetalError(Exception):
    """One line of what went wrong, one line of hint, and a code that does not change between releases."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        self.message = one_line(message)
        super().__init__(self.message)
        self.code = code or self.default_code
        self.hint = None if hint is None else one_line(hint)


class UsageError(BareMetalError):
    """The user asked for something that cannot be: tell them. `parameter` names what to change."""

    default_code = "usage"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.parameter = parameter


class IntegrityError(BareMetalError):
    """Bytes are not what they claim to be: discard them and blame `source` (a path, later a peer)."""

    default_code = "integrity"

    def __init__(
        self, message: str, *, source: str, code: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.source = source


class CapacityError(BareMetalError):
    """There is no room now. `needed` and `available` share one unit, which the message names."""

    default_code = "capacity"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        needed: int | None = None,
        available: int | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.needed = needed
        self.available = available


@dataclass(frozen=True)
class Outcome:
    """What one kind of error means to a shell and to an HTTP client."""

    exit_status: int
    http_status: int


_BY_CLASS: dict[type[BareMetalError], Outcome] = {
    UsageError: Outcome(exit_status=2, http_status=400),
    IntegrityError: Outcome(exit_status=3, http_status=500),
    CapacityError: Outcome(exit_status=4, http_status=503),
}
_BY_CODE: dict[str, Outcome] = {
    "model.not-found": Outcome(exit_status=2, http_status=404),
    "adapter.not-found": Outcome(exit_status=2, http_status=404),
    "response.not-found": Outcome(exit_status=2, http_status=404),
    "queue.full": Outcome(exit_status=4, http_status=429),
    "key.busy": Outcome(exit_status=4, http_status=429),
    "key.spent": Outcome(exit_status=4, http_status=429),
}


def outcome(error: BareMetalError) -> Outcome:
    """The exit status and HTTP status of an error: by its code first, then by its class."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    for cls in type(error).__mro__:
        if cls in _BY_CLASS:
            return _BY_CLASS[cls]
    return Outcome(exit_status=1, http_status=500)
