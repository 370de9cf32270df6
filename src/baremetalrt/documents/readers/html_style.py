"""What of a page nobody can see, as far as styles in the page itself say so.

Considered: tinycss2, which takes a stylesheet apart token by token, where braces and a few words are all
that is asked here.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

Attributes = Mapping[str, str | None]
Color = tuple[int, int, int]

_LOOKS: Final = frozenset(("style", "bgcolor", "background", "color"))
_BLACK: Final = (0, 0, 0)
_WHITE: Final = (255, 255, 255)
_NAMED: Final = {"white": _WHITE, "black": _BLACK, "snow": _WHITE, "ivory": _WHITE}
# No eye tells colours apart that are so near to each other.
_NEAR: Final = 12
_ZERO: Final = r"0*\.?0+\s*(?:px|pt|em|rem|ex|%|in|cm|mm|vh|vw)?\s*(?:!|;|$)"
_HIDING: Final = re.compile(
    r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)"
    r"|text-indent\s*:\s*-\d{3}|(?:left|top|right|margin-left)\s*:\s*-\d{4}"
    r"|clip\s*:\s*rect\(\s*(?:0|1)(?:px)?[\s,]|clip-path\s*:\s*inset\(\s*(?:50|100)%)",
    re.IGNORECASE,
)
# On a page, what fades in or folds out is hidden like this, and shown by a program; mail has none.
_HIDING_IN_MAIL: Final = re.compile(
    rf"(?:^|[;\s])(?:mso-hide\s*:\s*all|(?:opacity|max-height|max-width|height|width)\s*:\s*{_ZERO})",
    re.IGNORECASE,
)
_SIZE: Final = re.compile(r"(?:^|[;\s])font(?:-size)?\s*:\s*([^;!]*)", re.IGNORECASE)
_ZERO_SIZE: Final = re.compile(rf"(?:^|\s){_ZERO}", re.IGNORECASE)
_RELATIVE_SIZE: Final = re.compile(
    r"^\s*[\d.]+\s*(?:em|ex|%)|inherit|smaller|larger", re.IGNORECASE
)
_FOREGROUND: Final = re.compile(r"(?:^|[;\s])color\s*:\s*([^;!]*)", re.IGNORECASE)
_BACKGROUND: Final = re.compile(r"(?:^|[;\s])background(?:-color)?\s*:\s*([^;!]*)", re.IGNORECASE)
_HEX: Final = re.compile(r"#([0-9a-f]{6}|[0-9a-f]{3})\b", re.IGNORECASE)
_RGB: Final = re.compile(
    r"rgba?\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(?:,\s*([\d.]+)\s*)?\)"
)
_COMMENT: Final = re.compile(r"/\*.*?\*/|<!--|-->", re.DOTALL)
_BRACE: Final = re.compile(r"[{}]")
_SELECTOR: Final = re.compile(r"([a-z][a-z0-9]*)?((?:[.#][\w-]+)*)", re.IGNORECASE)
_SELECTOR_PART: Final = re.compile(r"([.#])([\w-]+)")
_MAX_CSS_CHARS: Final = 1 << 20
_MAX_STYLE_CHARS: Final = 4000
# Whoever hides all of a page shows it again by a program.
_WHOLE: Final = ("html", "body", "main", "article")


@dataclass(frozen=True)
class Appearance:
    """How text looks where it stands; `None` is a colour that cannot be told."""

    has_size: bool = True
    color: Color | None = _BLACK
    background: Color | None = _WHITE

    @property
    def is_visible(self) -> bool:
        if not self.has_size:
            return False
        if self.color is None or self.background is None:
            return True
        return any(abs(a - b) > _NEAR for a, b in zip(self.color, self.background, strict=True))

    def within(self, attributes: Attributes) -> "Appearance":
        """How it looks inside an element with these attributes."""
        if _LOOKS.isdisjoint(attributes):
            return self
        style, *others = (attributes.get(name) or "" for name in ("style", "bgcolor", "background"))
        return _within(self, style[:_MAX_STYLE_CHARS], *others, attributes.get("color") or "")


# Pages say the same again and again.
@functools.lru_cache(maxsize=1024)
def _within(
    outside: Appearance, style: str, bgcolor: str, picture: str, font_color: str
) -> Appearance:
    found = outside
    if size := _SIZE.search(style):
        if _ZERO_SIZE.search(size[1]):
            found = replace(found, has_size=False)
        elif not _RELATIVE_SIZE.search(size[1]):
            found = replace(found, has_size=True)
    background = _BACKGROUND.search(style)
    if background or bgcolor or picture:
        said = background[1] if background else bgcolor or "an image"
        found = replace(found, background=_color(said, found.background))
    color = _FOREGROUND.search(style)
    if color or font_color:
        said = color[1] if color else font_color
        found = replace(found, color=_color(said, found.background))
    return found


@dataclass(frozen=True)
class _Rule:
    tag: str
    classes: frozenset[str]
    ids: frozenset[str]


@dataclass(frozen=True)
class HiddenRules:
    """The selectors of a page's own stylesheets that hide what they select. `has_backgrounds`: the
    stylesheets have colours for what is behind texts, so that white ones may well be visible."""

    rules: tuple[_Rule, ...] = field(default=())
    has_backgrounds: bool = False

    def hide(self, tag: str, attributes: Attributes) -> bool:
        """Whether one of them selects this element, for itself and not for where it stands."""
        if not self.rules:
            return False
        classes = frozenset((attributes.get("class") or "").split())
        return any(
            rule.tag in ("", tag)
            and rule.classes <= classes
            and rule.ids <= {attributes.get("id") or ""}
            for rule in self.rules
        )


def hides(attributes: Attributes, *, is_mail: bool) -> bool:
    """Whether an element says of itself that it is not shown."""
    if "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return True
    style = (attributes.get("style") or "")[:_MAX_STYLE_CHARS]
    return bool(style) and _is_hiding(style, is_mail=is_mail)


def hidden_rules(css: str, *, is_mail: bool) -> HiddenRules:
    """What the stylesheets of a page hide, on every screen."""
    css = _COMMENT.sub(" ", css[:_MAX_CSS_CHARS])
    rules = []
    for selectors, style in _top_rules(css):
        if not _is_hiding(style[:_MAX_STYLE_CHARS], is_mail=is_mail):
            continue
        for selector in selectors.split(","):
            match = _SELECTOR.fullmatch(selector.strip())
            if match and match[0] and (match[1] or "").lower() not in _WHOLE:
                parts = _SELECTOR_PART.findall(match[2])
                rules.append(
                    _Rule(
                        (match[1] or "").lower(),
                        frozenset(name for mark, name in parts if mark == "."),
                        frozenset(name for mark, name in parts if mark == "#"),
                    )
                )
    return HiddenRules(tuple(rules[:100]), "background" in css)


@functools.lru_cache(maxsize=1024)
def _is_hiding(style: str, *, is_mail: bool) -> bool:
    return _HIDING.search(style) is not None or (
        is_mail and _HIDING_IN_MAIL.search(style) is not None
    )


def _top_rules(css: str) -> Iterator[tuple[str, str]]:
    """Selectors and declarations; what is inside of `@media` holds for some screens only."""
    depth, end, selectors = 0, 0, ""
    for brace in _BRACE.finditer(css):
        if brace[0] == "{":
            if not depth:
                selectors = css[end : brace.start()].strip()
                end = brace.end()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                if not selectors.startswith("@"):
                    yield selectors, css[end : brace.start()]
                end = brace.end()


def _color(said: str, behind: Color | None) -> Color | None:
    """The colour in a declaration; what is transparent shows what is behind it."""
    said = said.strip().lower()
    if match := _HEX.search(said):
        digits = match[1] if len(match[1]) == 6 else "".join(2 * digit for digit in match[1])
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    if match := _RGB.search(said):
        if match[4] is not None and not match[4].strip("0."):
            return behind
        return int(match[1]), int(match[2]), int(match[3])
    if said == "transparent":
        return behind
    return _NAMED.get(said)
