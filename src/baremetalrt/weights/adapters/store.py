"""The adapters of this machine: one folder each, which only its owner can read.

A folder has `adapter.gguf` (what is computed with), `adapter.json` (the card) and, where the adapter
came from `peft`, its two files. One that was just trained may have no GGUF yet: see `complete`.
"""

import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.core.places import adapters_folder
from baremetalrt.weights.adapters.adapter import Adapter, bad
from baremetalrt.weights.adapters.card import (
    CARD_NAME,
    NOT_PRIVATE,
    UNKNOWN_PRIVACY,
    Card,
    DifferentialPrivacy,
    card_of,
    encode_card,
    read_card,
)
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora, write_gguf_lora
from baremetalrt.weights.content import content_id
from baremetalrt.weights.gguf import GGUFFile

GGUF_NAME: Final = "adapter.gguf"
# No dot at the end: some file systems drop it.
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter of the store, by its folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def gguf_path(self) -> Path:
        return self.folder / GGUF_NAME

    @property
    def is_complete(self) -> bool:
        """Whether it can be computed with."""
        return self.gguf_path.is_file() and (self.folder / CARD_NAME).is_file()

    def card(self) -> Card:
        """What is known of it; raises like `read_card`."""
        return read_card(self.folder / CARD_NAME)

    @property
    def num_bytes(self) -> int:
        return sum(p.stat().st_size for p in self.folder.glob("**/*") if p.is_file())


def stored_adapters() -> list[StoredAdapter]:
    """Every adapter that can be used, by name."""
    folder = adapters_folder()
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    adapters = [StoredAdapter(p) for p in found if _NAME.fullmatch(p.name) and p.is_dir()]
    return [adapter for adapter in adapters if adapter.is_complete]


def find_adapter(name: str) -> StoredAdapter:
    """The adapter of that name, whatever its case.

    Raises:
        UsageError: there is none.
    """
    for adapter in stored_adapters():
        if adapter.name.lower() == name.lower():
            return adapter
    raise UsageError(
        f"no adapter {name!r} in the store",
        code="adapter.not-found",
        parameter="adapter",
        hint="`bmrt adapters ls` lists what is here",
    )


def check_name(name: str) -> str:
    """Raises `UsageError` unless an adapter can be called so."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"an adapter cannot be called {name!r}",
            code="adapter.name",
            parameter="name",
            hint="letters, digits, dots, dashes and underscores, 64 at most",
        )
    return name


def add(
    adapter: Adapter,
    *,
    privacy: DifferentialPrivacy | str = UNKNOWN_PRIVACY,
    beside: Callable[[Path], None] = lambda folder: None,
) -> StoredAdapter:
    """Puts an adapter into the store, at once or not at all. `beside` adds files of its own.

    Raises:
        UsageError: one of that name is there.
        CapacityError: the disk is full.
    """
    check_name(adapter.name)
    target = StoredAdapter(adapters_folder() / adapter.name)
    if is_taken(adapter.name):
        raise exists(adapter.name)
    with disk_errors(adapters_folder()):
        adapters_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = adapters_folder() / f".new-{secrets.token_hex(6)}"
        scratch.mkdir(mode=0o700)
        try:
            complete(scratch, adapter, privacy=privacy)
            beside(scratch)
            make_private(scratch)
            scratch.rename(target.folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    return target


def is_taken(name: str) -> bool:
    """Whether an adapter is called so, complete or not, whatever its case."""
    folder = adapters_folder()
    return folder.is_dir() and any(p.name.lower() == name.lower() for p in folder.iterdir())


def exists(name: str) -> UsageError:
    """Why a second adapter of that name is not taken."""
    return UsageError(
        f"there is an adapter {name} already",
        code="adapter.exists",
        parameter="name",
        hint=f"give it another name, or `bmrt adapters rm {name}` first",
    )


def complete(
    folder: Path, adapter: Adapter, *, privacy: DifferentialPrivacy | str = UNKNOWN_PRIVACY
) -> None:
    """Writes the GGUF and the card of an adapter into its folder; what was there is replaced."""
    with disk_errors(adapters_folder()):
        for name, write in (
            (GGUF_NAME, lambda path: write_gguf_lora(adapter, path)),
            (
                CARD_NAME,
                lambda path: path.write_bytes(encode_card(card_of(adapter, privacy=privacy))),
            ),
        ):
            temporary = folder / f".{name}.{secrets.token_hex(4)}"
            try:
                temporary.touch(mode=0o600)
                write(temporary)
                temporary.replace(folder / name)
            finally:
                temporary.unlink(missing_ok=True)


def complete_trained(
    folder: Path,
    base: GGUFFile,
    *,
    base_name: str,
    privacy: DifferentialPrivacy | str = NOT_PRIVATE,
) -> Adapter:
    """Adds GGUF and card to a PEFT folder that was trained on this base; raises like `read_peft`."""
    # Here and not above: only this reads safetensors.
    from baremetalrt.weights.adapters.peft import read_peft

    read = read_peft(folder, base, base_content_id=content_id(base))
    adapter = replace(read, base_name=base_name)
    complete(folder, adapter, privacy=privacy)
    make_private(folder)
    return adapter


def remove(adapter: StoredAdapter) -> int:
    """Deletes an adapter; returns the bytes freed."""
    freed = adapter.num_bytes
    doomed = adapter.folder.with_name(f".removed-{secrets.token_hex(6)}")
    adapter.folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    return freed


def load(adapter: StoredAdapter) -> Adapter:
    """Reads an adapter of the store; what its card says of the base counts, too.

    Raises:
        IntegrityError: it is damaged, or card and file name different bases.
    """
    card, read = adapter.card(), read_gguf_lora(adapter.gguf_path, name=adapter.name)
    if card.base_content_id and read.base_content_id not in (None, card.base_content_id):
        raise bad(str(adapter.folder), "names one base in its card and another in its file")
    return replace(
        read,
        base_content_id=card.base_content_id or read.base_content_id,
        base_name=card.base_name or read.base_name,
    )


def make_private(folder: Path) -> None:
    """Lets nobody but the owner read a folder and what is in it."""
    folder.chmod(0o700)
    for path in folder.glob("**/*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
