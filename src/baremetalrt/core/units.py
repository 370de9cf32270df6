"""Sizes and times, and how people read them."""

import math
import re
from typing import Final

from baremetalrt.core.errors import UsageError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE)


def format_bytes(num_bytes: float) -> str:
    """A size for people: `98.2 MiB`."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(num_bytes) >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def format_duration(seconds: float) -> str:
    """A time for people: `9 s`, `4 min 10 s`, `1 h 05 min`."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600} h {s % 3600 // 60:02} min"
    return f"{s // 60} min {s % 60:02} s" if s >= 60 else f"{s} s"


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def parse_bytes(text: str) -> int:
    """A size as people write it, in bytes: `50 GiB`, `1.5MB`, `200k/s`.

    Raises:
        UsageError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a size", hint="for example: 500 MB, 20 GiB, 300 KB/s")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


_TIMES: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds, from `90`, `30m` or `1h30m`; what is below zero, and `forever`, has no end.

    Raises:
        UsageError: it is no time.
    """
    said = text.strip().lower()
    if said == "forever":
        return math.inf
    number, minus = said.removeprefix("-"), said.startswith("-")
    parts = _TIME.findall(number)
    if number and "".join(a + b for a, b in parts) == number:
        seconds = sum(float(a) * _TIMES[b] for a, b in parts)
    elif re.fullmatch(r"\d{1,12}(\.\d+)?", number):
        seconds = float(number)
    else:
        raise UsageError(
            f"{text!r} is no time", code="usage", hint="for example 90s, 30m, 1h30m, or forever"
        )
    return math.inf if minus else seconds
