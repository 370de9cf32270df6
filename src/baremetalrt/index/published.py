"""Lists that this machine publishes: a key each, which never leaves it, and the list as it was signed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.places import lists_folder
from baremetalrt.index.lists import BUNDLED, NAME_PATTERN, OWN, ListedModel
from baremetalrt.index.signed import SignedList, read_signed, sign_list

_KEY_FILE: Final = "key.pem"
_LIST_FILE: Final = "list.bmrt-list"


@dataclass(frozen=True)
class PublishedList:
    """A list of one's own that others follow."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def list_path(self) -> Path:
        """The list as it can be handed over."""
        return self.folder / _LIST_FILE

    def key(self) -> Ed25519PrivateKey:
        """Raises `IntegrityError` where it is lost or damaged."""
        path = self.folder / _KEY_FILE
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise ValueError("another kind of key")
        except (OSError, ValueError, TypeError) as error:
            raise IntegrityError(
                f"the key of the list {self.name} cannot be used: {error}",
                code="index.key",
                source=str(path),
                hint="put it back from a copy, or publish under a new name: nobody else can sign it",
            ) from error
        return key

    def current(self, now: datetime) -> SignedList:
        """The list, signed anew where it is time or it has expired; raises `IntegrityError`."""
        # Expired or not, what it says is its publisher's own.
        signed = read_signed(self.list_path.read_bytes(), str(self.list_path), None)
        return self.sign(signed.models, now) if signed.is_due(now) else signed

    def sign(self, models: tuple[ListedModel, ...], now: datetime) -> SignedList:
        """Signs other models from now on.

        Raises:
            IntegrityError: the key is lost, or there are too many.
            CapacityError: the disk is full or forbidden.
        """
        before = _number_of(self.list_path)
        signed = sign_list(self.key(), self.name, models, after=before, now=now)
        with disk_errors():
            write_durably(self.list_path, signed.raw)
        return signed


def published_lists() -> list[PublishedList]:
    """All that this machine publishes."""
    return list(_published())


def _published() -> Iterator[PublishedList]:
    try:
        folders = sorted(_folder().iterdir())
    except OSError:
        return
    for folder in folders:
        if (folder / _KEY_FILE).is_file() and (folder / _LIST_FILE).is_file():
            yield PublishedList(folder)


def find_published(name: str) -> PublishedList:
    """Raises `UsageError` where there is none of that name."""
    found = next((one for one in _published() if one.name == name.strip().lower()), None)
    if found is None:
        raise UsageError(
            f"this machine publishes no list {name!r}",
            code="index.not-found",
            parameter="list",
            hint="`bmrt index create NAME` makes one",
        )
    return found


def create_list(name: str, now: datetime) -> PublishedList:
    """An empty list under a new key.

    Raises:
        UsageError: it is no name, or there is one of that name.
        CapacityError: the disk is full or forbidden.
    """
    name = name.strip().lower()
    if not re.fullmatch(NAME_PATTERN, name, re.ASCII) or name in (OWN, BUNDLED):
        raise UsageError(
            f"{name[:80]!r} cannot be the name of a list",
            code="index.name",
            parameter="name",
            hint="small letters, digits, '.', '_' and '-'; neither own nor bundled",
        )
    made = PublishedList(_folder() / name)
    if made.folder.exists():
        raise UsageError(
            f"this machine publishes a list {name} already",
            code="index.exists",
            parameter="name",
        )
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with disk_errors():
        made.folder.mkdir(parents=True, mode=0o700)
        write_durably(made.folder / _KEY_FILE, pem)
    made.sign((), now)
    return made


def _number_of(path: Path) -> int:
    """The number of the list that was signed last; 0 for none."""
    try:
        found = re.search(rb"^number = (\d{1,15})$", path.read_bytes(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _folder() -> Path:
    return lists_folder() / "published"
