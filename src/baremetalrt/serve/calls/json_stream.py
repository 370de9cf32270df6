"""An object of JSON that comes in pieces, and goes on in pieces. Pure.

What small models write in it that is none is put right: words of Python, numbers that JSON has not, and
control characters in strings.
"""

import re
from typing import Final

_STRING_MARKS: Final = re.compile(r'["\\]')
_WORD: Final = re.compile(r"[\w+\-.]+")
_MENDED: Final = {
    "True": "true",
    "False": "false",
    "None": "null",
    "NaN": "null",
    "Infinity": "null",
    "-Infinity": "null",
}
_ESCAPES: Final = {i: f"\\u{i:04x}" for i in range(0x20)} | {10: "\\n", 13: "\\r", 9: "\\t"}


class JsonObject:
    """Follows one object to its end; `add` is told text that begins with its brace."""

    def __init__(self) -> None:
        self._held = ""
        self._depth = 0
        self._is_string = False
        # what came behind the end
        self.rest: str | None = None

    def add(self, text: str) -> str:
        """What can go on now."""
        data, out, i = self._held + text, list[str](), 0
        self._held = ""
        while i < len(data):
            step = self._in_string if self._is_string else self._outside
            said, end = step(data, i)
            if end is None:
                self._held = data[i:]
                break
            out.append(said)
            i = end
            if self._depth == 0 and not self._is_string:
                self.rest = data[i:]
                break
        return "".join(out)

    def _in_string(self, data: str, i: int) -> tuple[str, int | None]:
        mark = _STRING_MARKS.search(data, i)
        if mark is None:
            return data[i:].translate(_ESCAPES), len(data)
        end = mark.start()
        if mark[0] == '"':
            self._is_string = False
            return data[i : end + 1].translate(_ESCAPES), end + 1
        if end > i:
            return data[i:end].translate(_ESCAPES), end
        # What a backslash means, the next letter says.
        return (data[end : end + 2], end + 2) if end + 1 < len(data) else ("", None)

    def _outside(self, data: str, i: int) -> tuple[str, int | None]:
        word = _WORD.match(data, i)
        if word is not None:
            # There may be more of it.
            end = None if word.end() == len(data) else word.end()
            return _MENDED.get(word[0], word[0]), end
        self._is_string = data[i] == '"'
        self._depth += (data[i] in "{[") - (data[i] in "}]")
        return data[i], i + 1
