"""What a terminal would obey does not reach it: the one place where text leaves for people's eyes.

Answers, names of torrents, models and adapters, what peers say: all of it may hold escape sequences,
which write the clipboard, move the cursor or change what was shown before.
"""

import re
import sys
from typing import Any, Final, TextIO

# All control characters but newline and tab, those that reverse the order of what follows, and halves
# of surrogates, which no terminal can show.
_OBEYED: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PICTURES: Final = 0x2400
_PICTURE_OF_DEL: Final = "\u2421"
_UNKNOWN: Final = "\ufffd"


def shown(text: str) -> str:
    """The text with a picture in place of every character that a terminal would obey."""
    return _OBEYED.sub(_picture, text)


def _picture(found: "re.Match[str]") -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(_PICTURES + code)
    return _PICTURE_OF_DEL if code == 0x7F else _UNKNOWN


class _Shown:
    """A stream to a terminal on which text is shown as it is; in all else the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self.controlled = stream

    def write(self, text: str) -> int:
        self.controlled.write(shown(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.controlled, name)


def guard() -> None:
    """From now on, what is printed to a terminal is shown and not obeyed; files get it as it is."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Shown) and stream.isatty():
            setattr(sys, name, _Shown(stream))


def controlled(stream: TextIO) -> TextIO:
    """The stream for our own control sequences: whatever comes from elsewhere is `shown` first."""
    return stream.controlled if isinstance(stream, _Shown) else stream
