"""The lists of this machine: one's own, the one that comes with the program, and those of publishers."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.places import home, lists_folder
from baremetalrt.index.lists import (
    BUNDLED,
    OWN,
    Found,
    KnownList,
    ListedModel,
    alike,
    find,
    is_reference,
    is_source,
    read_list,
    write_list,
)

if TYPE_CHECKING:
    from baremetalrt.index.published import PublishedList
    from baremetalrt.index.signed import SignedList

_log = logging.getLogger("baremetalrt.index")
_BUNDLED: Final = Path(__file__).with_name("bundled.toml")


def own_list_file() -> Path:
    """Where names of one's own are kept."""
    return home() / "index.toml"


def own_list() -> list[ListedModel]:
    """Raises `IntegrityError` where the file is no list."""
    path = own_list_file()
    if not path.is_file():
        return []
    return read_list(path.read_text(encoding="utf-8", errors="replace"), str(path))


def all_lists() -> list[KnownList]:
    """One's own, the one that comes with the program, those published here, and those followed.

    One that has expired, or is damaged, is left out with a line in the log.
    """
    now = datetime.now(UTC)
    bundled = read_list(_BUNDLED.read_text(encoding="utf-8"), "the bundled list")
    known = [KnownList(OWN, tuple(own_list())), KnownList(BUNDLED, tuple(bundled))]
    return known + _signed_lists(now) if lists_folder().is_dir() else known


def _signed_lists(now: datetime) -> list[KnownList]:
    # Here and not above: most people have none, and what checks signatures takes long to import.
    from baremetalrt.index.followed import followed_lists
    from baremetalrt.index.published import published_lists

    known: list[KnownList] = []
    for published in published_lists():
        known += _read(published.name, partial(published.current, now))
    for followed in followed_lists():
        known += _read(followed.alias, partial(followed.read, now))
    return known


def _read(publisher: str, read: Callable[[], "SignedList | None"]) -> list[KnownList]:
    try:
        signed = read()
    except (BareMetalError, OSError) as error:
        _log.warning("%s", error.message if isinstance(error, BareMetalError) else error)
        return []
    return [KnownList(publisher, signed.models)] if signed else []


def found_by(text: str) -> Found | None:
    """What a name means; None where no list has it. Raises like `find`."""
    return find(text, all_lists()) if is_reference(text) else None


def source_of(text: str) -> str | None:
    """Where the model of a name is to be had; None where no list has it. Raises like `find`."""
    found = found_by(text)
    return found.source if found else None


def names_like(text: str) -> list[str]:
    """Names of lists that may be meant by one that is in none."""
    return alike(text, all_lists())


def add_name(
    text: str,
    source: str,
    description: str = "",
    *,
    to: "PublishedList | None" = None,
    content: str | None = None,
) -> ListedModel:
    """Puts a name, with a size or without, on one's own list, or on one that is published.

    `content` names the bytes, where they are known.

    Raises:
        UsageError: it is no name, or no source.
        IntegrityError: the list that is published cannot be signed.
        CapacityError: the disk is full or forbidden.
    """
    name, _, size = text.strip().lower().partition(":")
    if "/" in name or not is_reference(text):
        raise UsageError(
            f"{text[:80]!r} cannot be a name",
            code="index.name",
            parameter="name",
            hint="small letters, digits, '.', '_' and '-', and perhaps a size: my-model:7b",
        )
    if not (source.isprintable() and is_source(source.strip())):
        raise UsageError(
            f"{source[:80]!r} is no place where a model is to be had",
            code="index.source",
            parameter="source",
            hint="hf:OWNER/REPO[:QUANT], a magnet link, or an info-hash",
        )
    known = {one.name: one for one in _models_of(to)}
    before = known.get(name, ListedModel(name=name, sizes={}))
    size = size or "latest"
    contents = {k: v for k, v in before.contents.items() if k != size}
    made = replace(
        before,
        sizes={**before.sizes, size: source.strip()},
        contents={**contents, size: content} if content else contents,
        description=description or before.description,
    )
    known[name] = made
    _write(list(known.values()), to)
    return made


def remove_name(text: str, *, of: "PublishedList | None" = None) -> None:
    """Takes a name off one's own list, or a published one; raises `UsageError` if it is not there."""
    name, _, size = text.strip().lower().partition(":")
    known = {one.name: one for one in _models_of(of)}
    model = known.get(name)
    if model is None or (size and size not in model.sizes):
        raise UsageError(
            f"{text!r} is not on {'the list ' + of.name if of else 'your list'}",
            code="index.not-found",
            parameter="name",
            hint="names that come with the program stay; your own go before them",
        )
    left = {k: v for k, v in model.sizes.items() if size and k != size}
    if left:
        contents = {k: v for k, v in model.contents.items() if k in left}
        known[name] = replace(model, sizes=left, contents=contents)
    else:
        del known[name]
    _write(list(known.values()), of)


def _models_of(published: "PublishedList | None") -> Sequence[ListedModel]:
    return published.current(datetime.now(UTC)).models if published else own_list()


def _write(models: list[ListedModel], published: "PublishedList | None") -> None:
    if published is not None:
        published.sign(tuple(models), datetime.now(UTC))
        return
    with disk_errors():
        own_list_file().parent.mkdir(parents=True, exist_ok=True)
        write_durably(own_list_file(), write_list(models).encode())
