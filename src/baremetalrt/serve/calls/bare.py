"""Calls that stand there without marks, or are parsed as a whole: JSON, bare or in a fence. Pure."""

import json
import re
from collections.abc import Collection
from typing import Any, Final

from baremetalrt.serve.calls.call import Call

# Llama 3 may put this in front of a call.
PYTHON_TAG: Final = "<|python_tag|>"
_FENCE: Final = "```"
_FENCED: Final = ("", "json", "tool_call")
# What a call may begin with; another object is an answer, and need not be held back.
_FIRST_KEY: Final = re.compile(r'\{\s*"([^"]*)"')
_CALL_KEYS: Final = ("name", "arguments", "parameters", "type", "id")
_BEGUN: Final = re.compile(r'\s*\[?\s*\{\s*"name"\s*:\s*"([^"]*)"')


def parse_calls(text: str, names: Collection[str]) -> list[Call]:
    """A text that is one call, or a list of them, and nothing else; none where it is not."""
    try:
        value = json.loads(unfenced(text.strip().removeprefix(PYTHON_TAG)), parse_constant=_no_json)
    except (ValueError, RecursionError):
        return []
    found = []
    for item in value if isinstance(value, list) else [value]:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name not in names:
            return []
        found.append(Call(name, _as_text(item.get("arguments", item.get("parameters", {})))))
    return found


def begins_call(text: str, names: Collection[str]) -> bool:
    """Whether a text began as a call of a tool, and did not come to its end."""
    begun = _BEGUN.match(unfenced(text.strip().removeprefix(PYTHON_TAG)))
    return begun is not None and begun[1] in names


def may_begin_call(text: str) -> bool:
    """Whether more of it could make a bare call: an object, behind a tag or in a fence."""
    start = text.lstrip()
    key = _FIRST_KEY.match(start)
    if key is not None and key[1] not in _CALL_KEYS:
        return False
    if any(mark.startswith(start) or start.startswith(mark) for mark in ("{", PYTHON_TAG)):
        return True
    if not start.startswith(_FENCE):
        return _FENCE.startswith(start)
    language, newline, rest = start[len(_FENCE) :].partition("\n")
    if not newline:
        return any(known.startswith(language.strip()) for known in _FENCED)
    return language.strip() in _FENCED and rest.lstrip()[:1] in ("", "{")


def unfenced(text: str) -> str:
    """What stands in a fence, or all of it where there is none."""
    inner = text.strip()
    if not inner.startswith(_FENCE):
        return inner
    _, _, inner = inner.partition("\n")
    return inner.rstrip().removesuffix(_FENCE).strip()


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _no_json(name: str) -> Any:
    """`NaN` and endless numbers, which Python reads and nobody who gets the call would."""
    raise ValueError(f"{name} is not JSON")
