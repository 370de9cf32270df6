"""The lists of this machine: one's own, and the one that comes with the program."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.places import home
from baremetalrt.index.lists import (
    ListedModel,
    alike,
    find,
    is_reference,
    is_source,
    read_list,
    write_list,
)

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


def all_lists() -> list[list[ListedModel]]:
    """One's own before the bundled one."""
    return [own_list(), read_list(_BUNDLED.read_text(encoding="utf-8"), "the bundled list")]


def source_of(text: str) -> str | None:
    """Where the model of a name is to be had; None where no list has it. Raises like `find`."""
    if not is_reference(text):
        return None
    found = find(text, all_lists())
    return found.source if found else None


def names_like(text: str) -> list[str]:
    """Names of lists that may be meant by one that is in none."""
    return alike(text, all_lists())


def add_name(text: str, source: str, description: str = "") -> ListedModel:
    """Puts a name, with a size or without, on one's own list; it goes before others'.

    Raises:
        UsageError: it is no name.
        CapacityError: the disk is full or forbidden.
    """
    name, _, size = text.strip().lower().partition(":")
    if not is_reference(text):
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
    known = {one.name: one for one in own_list()}
    before = known.get(name, ListedModel(name=name, sizes={}))
    made = replace(
        before,
        sizes={**before.sizes, size or "latest": source.strip()},
        description=description or before.description,
    )
    known[name] = made
    _write(list(known.values()))
    return made


def remove_name(text: str) -> None:
    """Takes a name off one's own list; raises `UsageError` where it is not on it."""
    name, _, size = text.strip().lower().partition(":")
    known = {one.name: one for one in own_list()}
    model = known.get(name)
    if model is None or (size and size not in model.sizes):
        raise UsageError(
            f"{text!r} is not on your list",
            code="index.not-found",
            parameter="name",
            hint="names that come with the program stay; your own go before them",
        )
    left = {k: v for k, v in model.sizes.items() if size and k != size}
    if left:
        known[name] = replace(model, sizes=left)
    else:
        del known[name]
    _write(list(known.values()))


def _write(models: list[ListedModel]) -> None:
    with disk_errors():
        own_list_file().parent.mkdir(parents=True, exist_ok=True)
        write_durably(own_list_file(), write_list(models).encode())
