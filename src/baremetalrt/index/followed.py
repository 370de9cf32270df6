"""Lists of others that this machine follows, each by its publisher's key and under a name of its own."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.places import lists_folder
from baremetalrt.index.lists import BUNDLED, NAME_PATTERN, OWN, skeleton
from baremetalrt.index.published import published_lists
from baremetalrt.index.signed import SignedList, read_signed

_SUFFIX: Final = ".bmrt-list"


class _About(msgspec.Struct):
    """What is remembered of one beside the list: that nobody can have it forgotten by an older list."""

    key: str
    number: int = 0


@dataclass(frozen=True)
class FollowedList:
    """A list under the name by which this machine knows it. There may be no list yet."""

    alias: str
    key: str
    number: int

    @property
    def path(self) -> Path:
        return _folder() / f"{self.alias}{_SUFFIX}"

    @property
    def raw(self) -> bytes | None:
        """The list as it came; None before one has."""
        try:
            return self.path.read_bytes()
        except OSError:
            return None

    def read(self, now: datetime) -> SignedList | None:
        """The list; None before one has come. Raises `IntegrityError` where it does not hold any more."""
        raw = self.raw
        if raw is None:
            return None
        signed = read_signed(raw, f"the list {self.alias}", now)
        _require_key(self, signed, str(self.path))
        return signed


def followed_lists() -> list[FollowedList]:
    """All that this machine follows."""
    return list(_followed())


def _followed() -> Iterator[FollowedList]:
    for path in sorted(_folder().glob("*.json")):
        try:
            about = msgspec.json.decode(path.read_bytes(), type=_About)
        except (OSError, msgspec.DecodeError):
            continue
        yield FollowedList(path.stem, about.key, about.number)


def find_followed(text: str) -> FollowedList | None:
    """The one of that name, or of that key."""
    wanted = text.strip().lower()
    return next((one for one in _followed() if wanted in (one.alias, one.key)), None)


def require_free(alias: str) -> None:
    """Raises `UsageError` for what is no name of a list, or that of another, or looks like it."""
    if not re.fullmatch(NAME_PATTERN, alias, re.ASCII):
        raise UsageError(
            f"{alias[:80]!r} cannot be the name of a list",
            code="index.name",
            parameter="name",
            hint="small letters, digits, '.', '_' and '-'",
        )
    shape = skeleton(alias)
    published = (one.name for one in published_lists())
    taken = [OWN, BUNDLED, *published, *(one.alias for one in _followed())]
    if near := next((one for one in taken if skeleton(one) == shape), None):
        raise UsageError(
            f"{alias} cannot be the name of a list: {near} is the name of another",
            code="index.name-taken",
            parameter="link",
            hint="choose another: `bmrt index follow … --as NAME`",
        )


def follow(key: str, alias: str) -> FollowedList:
    """Follows a key from now on, under a name that no other list has or looks like.

    Raises:
        UsageError: it is no name, or another list has it.
        CapacityError: the disk is full or forbidden.
    """
    known = find_followed(key)
    if known is not None:
        return known
    require_free(alias)
    made = FollowedList(alias, key, 0)
    _remember(made)
    return made


def unfollow(followed: FollowedList) -> None:
    """Forgets a list, and what was remembered of it."""
    with disk_errors():
        followed.path.unlink(missing_ok=True)
        followed.path.with_suffix(".json").unlink(missing_ok=True)


def accept(followed: FollowedList, raw: bytes, where: str, now: datetime) -> SignedList | None:
    """Takes over a newer list; None where it is the one that is here.

    Raises:
        IntegrityError: it is none, of another publisher, expired, or older than what was here.
        CapacityError: the disk is full or forbidden.
    """
    signed = read_signed(raw, where, now)
    _require_key(followed, signed, where)
    if signed.number < followed.number:
        raise IntegrityError(
            f"{where} is older than the list that is here",
            code="index.replayed",
            source=where,
            hint="whoever sent it has an old one, or passes it off for a new one",
        )
    if signed.number == followed.number and followed.raw is not None:
        return None
    with disk_errors():
        write_durably(followed.path, raw)
    _remember(FollowedList(followed.alias, followed.key, signed.number))
    return signed


def _require_key(followed: FollowedList, signed: SignedList, where: str) -> None:
    if signed.key != followed.key:
        raise IntegrityError(
            f"{where} is signed by another publisher",
            code="index.forged",
            source=where,
            hint="it is not the list of the key that is followed",
        )


def _remember(followed: FollowedList) -> None:
    with disk_errors():
        _folder().mkdir(parents=True, exist_ok=True)
        about = msgspec.json.encode(_About(followed.key, followed.number))
        write_durably(_folder() / f"{followed.alias}.json", about)


def _folder() -> Path:
    return lists_folder() / "followed"
