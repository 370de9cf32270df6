"""JSON schemas as libraries write them, made such that an answer comes to an end. Pure."""

from typing import Any, Final

# Whole numbers that every reader of JSON knows exactly.
_MOST: Final = 2**53 - 1
# Values in here are data, and no schemas.
_DATA: Final = frozenset({"enum", "const", "default", "examples"})
# How far a fraction goes on, unless its bounds are finer than that.
_STEP: Final = 1e-9
_FINE: Final = 1e-6
_LOWER: Final = ("minimum", "exclusiveMinimum")
_UPPER: Final = ("maximum", "exclusiveMaximum")


def bounded(schema: Any) -> Any:
    """The same schema, in which no number can go on for ever: a small model would.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(schema, list):
        return [bounded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: v if k in _DATA else bounded(v) for k, v in schema.items()}
    types = found.get("type")
    named = [types] if isinstance(types, str) else types if isinstance(types, list) else []
    is_number = "integer" in named or "number" in named
    if is_number and not _DATA.intersection(found) & {"enum", "const"}:
        if not any(_is_number(found.get(key)) for key in _LOWER):
            found["minimum"] = min(-_MOST, *_limits(found, _UPPER))
        if not any(_is_number(found.get(key)) for key in _UPPER):
            found["maximum"] = max(_MOST, *_limits(found, _LOWER))
        is_fine = any(
            0 < abs(one) < _FINE for one in (*_limits(found, _LOWER), *_limits(found, _UPPER))
        )
        if "number" in named and not is_fine:
            found.setdefault("multipleOf", _STEP)
    return found


def _limits(schema: dict[str, Any], keys: tuple[str, ...]) -> list[float]:
    """Bounds of the other side, which may lie further out; one at least."""
    return [schema[key] for key in keys if _is_number(schema.get(key))] or [0]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
