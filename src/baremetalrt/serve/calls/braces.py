"""Arguments as Gemma writes them: keys as they stand, texts between marks, the rest like JSON. Pure."""

import json
import re
from typing import Any, Final

_SCALAR: Final = re.compile(r"[^,{}\[\]]+")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_WORDS: Final = {"None": None, "True": True, "False": False}


def parse_braces(text: str, quote: str) -> Any:
    """The value that a text is, all of it; `quote` is the mark around texts.

    Raises:
        ValueError: it is none.
    """
    value, end = _Parser(text, quote).value(0)
    if text[end:].strip():
        raise ValueError("there is more behind the value")
    return value


class _Parser:
    def __init__(self, text: str, quote: str) -> None:
        self._text = text
        self._quote = quote

    def value(self, i: int) -> tuple[Any, int]:
        """The value that begins at `i`, and where it ends."""
        i = self._skip(i)
        text = self._text
        if text.startswith(self._quote, i):
            start = i + len(self._quote)
            end = text.find(self._quote, start)
            if end < 0:
                raise ValueError("a text has no end")
            return text[start:end], end + len(self._quote)
        if text[i : i + 1] == "{":
            return self._object(i + 1)
        if text[i : i + 1] == "[":
            return self._list(i + 1)
        if string := _STRING.match(text, i):
            return json.loads(string[0], strict=False), string.end()
        scalar = _SCALAR.match(text, i)
        if scalar is None:
            raise ValueError("a value is missing")
        return _scalar(scalar[0].strip()), scalar.end()

    def _object(self, i: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        i = self._skip(i)
        while self._text[i : i + 1] != "}":
            name, i = self._key(i)
            found[name], i = self.value(i)
            i = self._next(i, "}")
        return found, i + 1

    def _list(self, i: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        i = self._skip(i)
        while self._text[i : i + 1] != "]":
            item, i = self.value(i)
            found.append(item)
            i = self._next(i, "]")
        return found, i + 1

    def _next(self, i: int, end: str) -> int:
        """Behind a comma, or at the end."""
        i = self._skip(i)
        if self._text[i : i + 1] == ",":
            return self._skip(i + 1)
        if self._text[i : i + 1] != end:
            raise ValueError("neither a comma nor the end")
        return i

    def _key(self, i: int) -> tuple[str, int]:
        """A name, which may stand between marks, up to its colon."""
        end = self._text.find(":", i)
        name = self._text[i:end].strip().removeprefix(self._quote).removesuffix(self._quote)
        name = name.strip().strip('"')
        if end < 0 or not name or any(mark in name for mark in "{}[],"):
            raise ValueError("a key is missing")
        return name, end + 1

    def _skip(self, i: int) -> int:
        while self._text[i : i + 1].isspace():
            i += 1
        return i


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        # a word without marks
        return text
