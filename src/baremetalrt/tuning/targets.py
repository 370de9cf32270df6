"""Which modules of a model are adapted, as `--targets` says it. Pure."""

import re
from collections.abc import Iterable
from typing import Final

from baremetalrt.core.errors import UsageError

_NAMES: Final = re.compile(r"[\w,\s]+")


def parse_targets(targets: str | None) -> list[str] | re.Pattern[str] | None:
    """A list of names, or a regular expression over full names; None stands for all linear layers.

    Raises:
        UsageError: it is neither.
    """
    if targets is None:
        return None
    if _NAMES.fullmatch(targets):
        return [name for name in re.split(r"[,\s]+", targets) if name]
    try:
        return re.compile(targets)
    except re.error as error:
        raise UsageError(
            f"{targets!r} is not a regular expression: {error}",
            code="tune.targets",
            parameter="targets",
        ) from error


def bad_targets(what: str, known: Iterable[str]) -> UsageError:
    """Why targets are not taken, and what there is instead."""
    return UsageError(
        what, code="tune.targets", parameter="targets", hint=f"known modules: {', '.join(known)}"
    )
