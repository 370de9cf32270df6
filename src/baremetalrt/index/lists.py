"""Lists of models: what is in them, and which model a name means. Pure.

Names are small ASCII letters, digits and a few marks, so that none can pass for another by letters of
another alphabet; those that look alike all the same are shown, and never guessed.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.ids import is_magnet_or_hash

NAME_PATTERN: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
_REFERENCE: Final = re.compile(
    rf"(?:({NAME_PATTERN})/)?({NAME_PATTERN})(?::({NAME_PATTERN}))?", re.ASCII
)
_CONTENT_PATTERN: Final = r"[0-9a-f]{64}"
# Whose lists they are that no key names.
OWN: Final = "own"
BUNDLED: Final = "bundled"
_MAX_MODELS: Final = 10_000
_MAX_SIZES: Final = 100
_MAX_TEXT: Final = 300
_HUB: Final = "hf:"
# Which letters pass for which at a glance.
_ALIKE: Final = (("rn", "m"), ("vv", "w"), ("0", "o"), ("1", "l"), ("i", "l"), ("5", "s"))
_SEPARATORS: Final = str.maketrans("", "", "._-")


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model by its name. `sizes`: where each is to be had; the first is meant where none is named.

    `contents` names the bytes of some of the sizes, as `Metainfo.content_id` does: what has the same is
    one model, wherever it comes from.
    """

    name: str
    sizes: dict[str, str]
    contents: dict[str, str] = field(default_factory=dict)
    description: str = ""
    architecture: str = ""
    licence: str = ""


@dataclass(frozen=True)
class KnownList:
    """The models of a publisher, under the name by which this machine knows it."""

    publisher: str
    models: tuple[ListedModel, ...]


@dataclass(frozen=True)
class Found:
    """What a name means: the model, its size, where that is to be had, and who says so."""

    model: ListedModel
    size: str
    source: str
    publisher: str

    @property
    def content(self) -> str | None:
        """What names its bytes, where the list says it."""
        return self.model.contents.get(self.size)

    @property
    def full_name(self) -> str:
        return f"{self.publisher}/{self.name}"

    @property
    def name(self) -> str:
        return f"{self.model.name}:{self.size}"


class _File(msgspec.Struct):
    model: list[ListedModel] = []


def read_list(text: str, where: str) -> list[ListedModel]:
    """The models of a file; raises `IntegrityError` where it is none."""
    try:
        found = msgspec.convert(tomllib.loads(text), _File).model
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise _damaged(where, str(error)) from error
    if len(found) > _MAX_MODELS:
        raise _damaged(where, f"it has {len(found)} models")
    for one in found:
        _check(one, where)
    return found


def _check(model: ListedModel, where: str) -> None:
    for name in (model.name, *model.sizes):
        if not re.fullmatch(NAME_PATTERN, name, re.ASCII):
            raise _damaged(where, f"{name[:80]!r} is no name")
    if not 0 < len(model.sizes) <= _MAX_SIZES:
        raise _damaged(where, f"{model.name} has {len(model.sizes)} sizes")
    texts = (model.description, model.architecture, model.licence, *model.sizes.values())
    if any(not text.isprintable() or len(text) > 10 * _MAX_TEXT for text in texts):
        raise _damaged(where, f"what it says of {model.name} is no text")
    if any(
        size not in model.sizes or not re.fullmatch(_CONTENT_PATTERN, content, re.ASCII)
        for size, content in model.contents.items()
    ):
        raise _damaged(where, f"what it says of the bytes of {model.name} cannot be")
    for source in model.sizes.values():
        if not is_source(source):
            raise _damaged(where, f"{source[:80]!r} is no place where a model is to be had")


def _damaged(where: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"{where} is no list of models: {why}", code="index.damaged", source=where
    )


def is_source(text: str) -> bool:
    """Whether a model can be fetched by that: a name on a hub, a magnet link or an info-hash; no name."""
    return text.startswith(_HUB) or is_magnet_or_hash(text)


def is_reference(text: str) -> bool:
    """Whether it could be a name of a list, with a size or without."""
    return _REFERENCE.fullmatch(text.strip().lower()) is not None


def find(text: str, lists: Sequence[KnownList]) -> Found | None:
    """What a name means; None where no list has it. One's own list goes before all others.

    `PUBLISHER/NAME[:SIZE]` means that of one list. Without it, what several lists say differently, and
    what looks like a name of another list, is an error that shows them: nothing is guessed.

    Raises:
        UsageError: the model has no such size; several are meant; another looks like it.
    """
    matched = _REFERENCE.fullmatch(text.strip().lower())
    if matched is None:
        return None
    publisher, name, size = matched.groups()
    holders = [
        (known.publisher, model)
        for known in lists
        for model in known.models
        if model.name == name and publisher in (None, known.publisher)
    ]
    if not holders:
        return None
    if holders[0][0] == OWN:
        holders = holders[:1]
    found = [
        Found(model, which, model.sizes[which], who)
        for who, model in holders
        if (which := size or next(iter(model.sizes))) in model.sizes
    ]
    if not found:
        sizes = dict.fromkeys(one for _, model in holders for one in model.sizes)
        raise UsageError(
            f"{name} has no size {size}",
            code="index.size",
            parameter="source",
            hint=f"there are: {', '.join(sizes)}",
        )
    if len(found) > 1 and not all(_is_same(found[0], other) for other in found[1:]):
        raise UsageError(
            f"several lists have {name}, and mean different models",
            code="index.ambiguous",
            parameter="source",
            hint=f"say whose: {', '.join(one.full_name for one in found)}",
        )
    if publisher is None and found[0].publisher != OWN:
        _require_no_double(found[0], lists)
    return found[0]


def _is_same(one: Found, other: Found) -> bool:
    """Whether two lists mean the same bytes, as far as they say it."""
    if one.content and other.content:
        return one.content == other.content
    return one.source == other.source


def _require_no_double(found: Found, lists: Sequence[KnownList]) -> None:
    """Raises `UsageError` where another publisher has a name that looks like this one."""
    shape = skeleton(found.model.name)
    doubles = [
        f"{known.publisher}/{one.name}"
        for known in lists
        if known.publisher != found.publisher
        for one in known.models
        if one.name != found.model.name and skeleton(one.name) == shape
    ]
    if doubles:
        raise UsageError(
            f"{found.model.name} looks like a name of another list",
            code="index.alike",
            parameter="source",
            hint=f"say whose: {found.full_name}, {', '.join(doubles)}",
        )


def alike(text: str, lists: Sequence[KnownList]) -> list[str]:
    """Names that may be meant by one that no list has: they look like it, or begin or end like it."""
    name = text.strip().lower().partition(":")[0].rpartition("/")[2]
    wanted = skeleton(name)
    names = dict.fromkeys(one.name for known in lists for one in known.models)

    def is_near(other: str) -> bool:
        shape = skeleton(other)
        return shape == wanted or (len(wanted) > 2 and (wanted in shape or shape in wanted))

    return [other for other in names if other != name and is_near(other)]


def skeleton(name: str) -> str:
    """What is left of a name at a glance: names that look alike have the same."""
    shape = name.lower().translate(_SEPARATORS)
    for letters, other in _ALIKE:
        shape = shape.replace(letters, other)
    return shape


def search(words: Sequence[str], lists: Sequence[KnownList]) -> Iterator[tuple[str, ListedModel]]:
    """Models of which all words are said, by publisher, name, description, architecture or licence.

    What a list says that goes before is not said again by another that says the same.
    """
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for known in lists:
        for one in known.models:
            said = (
                f"{known.publisher} {one.name} {one.description} {one.architecture} {one.licence}"
            )
            key = one.name, tuple(one.sizes.values())
            if key not in seen and all(word.lower() in said.lower() for word in words):
                seen.add(key)
                yield known.publisher, one


def write_list(models: Sequence[ListedModel]) -> str:
    """A list as `read_list` reads it."""
    lines: list[str] = []
    for one in models:
        lines += ["[[model]]", f"name = {quoted(one.name)}"]
        for about in ("description", "architecture", "licence"):
            if value := getattr(one, about):
                lines.append(f"{about} = {quoted(value)}")
        pairs = ", ".join(f"{quoted(k)} = {quoted(v)}" for k, v in one.sizes.items())
        lines.append(f"sizes = {{ {pairs} }}")
        if one.contents:
            pairs = ", ".join(f"{quoted(k)} = {quoted(v)}" for k, v in one.contents.items())
            lines.append(f"contents = {{ {pairs} }}")
        lines.append("")
    return "\n".join(lines)


def quoted(text: str) -> str:
    """A text as TOML has it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
