"""Patterns of `peft` that say which modules have another rank or alpha.

They are regular expressions of strangers, of which some take ages: so they are matched by a library that
can be told when to stop. Names of modules, which is what most of them are, are looked up.

Source: `get_pattern_key` in `peft/utils/other.py`: the first that matches the whole name, or what follows
one of its dots.
"""

import re
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

from baremetalrt.weights.adapters.adapter import bad

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_MAX_PATTERNS: Final = 1 << 14
_MAX_EXPRESSIONS: Final = 256
_MAX_CHARS: Final = 1000
# For all modules and expressions of a table together; honest ones take milliseconds.
_DEADLINE_S: Final = 5.0


class ModulePatterns:
    """A table of patterns, in order. `key` and `source` are for those who are told of a bad one."""

    def __init__(self, values: Mapping[str, float], *, key: str, source: str) -> None:
        self._key, self._source = key, source
        self._values = tuple(values.items())
        self._left_s = _DEADLINE_S
        if len(self._values) > _MAX_PATTERNS:
            raise bad(source, f"has {len(self._values)} patterns in its {key}")
        self._by_name: dict[str, int] = {}
        self._numbers: list[int] = []
        for number, (pattern, _) in enumerate(self._values):
            name = _literal(pattern)
            if name is None:
                self._numbers.append(number)
            else:
                self._by_name.setdefault(name, number)
        if len(self._numbers) > _MAX_EXPRESSIONS or any(len(p) > _MAX_CHARS for p in values):
            raise bad(
                source, f"has {len(self._numbers)} regular expressions in its {key}, or long ones"
            )

    def value_of(self, module: str, default: float) -> float:
        """What the first pattern that matches says; raises `IntegrityError` if one cannot be tried."""
        found = min(
            (self._by_name[name] for name in _endings(module) if name in self._by_name),
            default=len(self._values),
        )
        for number in self._numbers:
            if number >= found:
                break
            if self._matches(number, module):
                found = number
                break
        return self._values[found][1] if found < len(self._values) else default

    @cached_property
    def _expressions(self) -> dict[int, Any]:
        # Here and not above: few adapters have any.
        import regex

        found = {}
        for number in self._numbers:
            pattern = self._values[number][0]
            try:
                found[number] = regex.compile(rf"(.*\.)?({pattern})$")
            except (regex.error, RecursionError, OverflowError, MemoryError) as error:
                raise self._bad(pattern, f"no regular expression: {error}") from error
        return found

    def _matches(self, number: int, module: str) -> bool:
        if self._left_s <= 0:
            raise self._bad(self._values[number][0], "too slow to be tried")
        started_s = time.monotonic()
        try:
            found = self._expressions[number].match(module, timeout=self._left_s)
            return found is not None
        except TimeoutError:
            raise self._bad(self._values[number][0], "too slow to be tried") from None
        finally:
            self._left_s -= time.monotonic() - started_s

    def _bad(self, pattern: str, what: str) -> Exception:
        return bad(self._source, f"has {pattern[:200]!r} in its {self._key}, which is {what}")


def _literal(pattern: str) -> str | None:
    """The name that a pattern stands for, where it is one; with `^` in front, if it is a whole name."""
    start = "^" if pattern.startswith("^") else ""
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    return start + name if _NAME.fullmatch(name) else None


def _endings(module: str) -> list[str]:
    """What of a name a literal pattern can match."""
    parts = module.split(".")
    return [f"^{module}", *(".".join(parts[i:]) for i in range(len(parts)))]
