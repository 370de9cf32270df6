"""Lists of models: what is in them, and which model a name means. Pure.

Names are small ASCII letters, digits and a few marks, so that none can pass for another by letters of
another alphabet; those that look alike all the same are shown, and never guessed.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.ids import is_magnet_or_hash

NAME_PATTERN: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
_REFERENCE: Final = re.compile(rf"({NAME_PATTERN})(?::({NAME_PATTERN}))?", re.ASCII)
_MAX_MODELS: Final = 10_000
_MAX_SIZES: Final = 100
_MAX_TEXT: Final = 300
_HUB: Final = "hf:"
# Which letters pass for which at a glance.
_ALIKE: Final = (("rn", "m"), ("vv", "w"), ("0", "o"), ("1", "l"), ("i", "l"), ("5", "s"))
_SEPARATORS: Final = str.maketrans("", "", "._-")


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model by its name. `sizes`: where each is to be had; the first is meant where none is named."""

    name: str
    sizes: dict[str, str]
    description: str = ""
    architecture: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Found:
    """What a name means: the model, its size, and where that is to be had."""

    model: ListedModel
    size: str
    source: str

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


def find(text: str, lists: Sequence[Sequence[ListedModel]]) -> Found | None:
    """What a name means, by the first list that has it; None where none has.

    Raises:
        UsageError: the model has no such size.
    """
    matched = _REFERENCE.fullmatch(text.strip().lower())
    if matched is None:
        return None
    name, size = matched[1], matched[2]
    model = next((one for known in lists for one in known if one.name == name), None)
    if model is None:
        return None
    if size is None:
        size = next(iter(model.sizes))
    if size not in model.sizes:
        raise UsageError(
            f"{name} has no size {size}",
            code="index.size",
            parameter="source",
            hint=f"there are: {', '.join(model.sizes)}",
        )
    return Found(model, size, model.sizes[size])


def alike(text: str, lists: Sequence[Sequence[ListedModel]]) -> list[str]:
    """Names that may be meant by one that no list has: they look like it, or begin or end like it."""
    name = text.strip().lower().partition(":")[0]
    wanted = skeleton(name)
    names = dict.fromkeys(one.name for known in lists for one in known)

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


def search(words: Sequence[str], lists: Sequence[Sequence[ListedModel]]) -> Iterator[ListedModel]:
    """Models of which all words are said, by name, description, architecture or licence."""
    seen: set[str] = set()
    for known in lists:
        for one in known:
            said = f"{one.name} {one.description} {one.architecture} {one.licence}".lower()
            if one.name not in seen and all(word.lower() in said for word in words):
                seen.add(one.name)
                yield one


def write_list(models: Sequence[ListedModel]) -> str:
    """A list as `read_list` reads it."""
    lines: list[str] = []
    for one in models:
        lines += ["[[model]]", f"name = {_quoted(one.name)}"]
        for field in ("description", "architecture", "licence"):
            if value := getattr(one, field):
                lines.append(f"{field} = {_quoted(value)}")
        pairs = ", ".join(f"{_quoted(k)} = {_quoted(v)}" for k, v in one.sizes.items())
        lines += [f"sizes = {{ {pairs} }}", ""]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
