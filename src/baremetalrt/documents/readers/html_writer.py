"""The lines that a page becomes, and which of them are menus."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_SPACE: Final = re.compile(r"\s+")
_MAX_QUOTE_DEPTH: Final = 8
# So many lines of links in a row are a menu; one that stands alone may be part of a text.
_MENU_LINES: Final = 3


@dataclass
class Line:
    """A line of the result. `in_links` counts characters that somebody could click on."""

    text: str = ""
    in_links: int = 0
    num_links: int = 0
    is_paragraph: bool = False
    is_verbatim: bool = False
    quote_depth: int = 0

    @property
    def is_menu(self) -> bool:
        return self.num_links > 0 and self.in_links >= 0.8 * len(self.text.lstrip("-# "))


@dataclass
class Writer:
    """Takes the words of a page as they come, and breaks them into lines."""

    lines: list[Line] = field(default_factory=lambda: [Line()])
    prefix: str = ""
    link_depth: int = 0
    pre_depth: int = 0
    quote_depth: int = 0

    def break_line(self, *, is_paragraph: bool = False) -> None:
        line = self.lines[-1]
        if line.text.strip():
            self.lines.append(Line(is_paragraph=is_paragraph))
        else:
            line.text = ""
            line.is_paragraph |= is_paragraph

    def write(self, text: str) -> None:
        if self.pre_depth:
            self._put(text)
            self.lines[-1].is_verbatim = True
            return
        text = _SPACE.sub(" ", text)
        line = self.lines[-1]
        if not line.text or line.text.endswith((" ", "\n", "\t")):
            text = text.lstrip(" ")
        if text:
            self._put(text)

    def _put(self, text: str) -> None:
        line = self.lines[-1]
        if not line.text:
            line.quote_depth = self.quote_depth
        if self.prefix and text.strip():
            line.text += self.prefix
            self.prefix = ""
        line.text += text
        if self.link_depth:
            line.in_links += len(text)


def without_menus(lines: list[Line]) -> Iterator[Line]:
    """The lines but for runs of links."""
    run: list[Line] = []
    for line in [*lines, Line()]:
        if line.is_menu and line.text:
            run.append(line)
            continue
        if run and len(run) < _MENU_LINES and max(one.num_links for one in run) < _MENU_LINES:
            yield from run
        run = []
        yield line


def joined(lines: list[Line]) -> str:
    """The text of the lines, paragraphs apart; what is quoted is marked as in mail."""
    parts: list[str] = []
    for line in lines:
        text = line.text if line.is_verbatim else line.text.strip()
        if text.strip():
            parts.append(("\n\n" if line.is_paragraph else "\n") if parts else "")
            text = text.strip("\n")
            if line.quote_depth:
                mark = ">" * min(line.quote_depth, _MAX_QUOTE_DEPTH) + " "
                text = "\n".join(mark + one for one in text.split("\n"))
            parts.append(text)
    return "".join(parts)
