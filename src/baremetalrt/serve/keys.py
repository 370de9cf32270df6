"""Keys by which clients are told apart: their names, what they may ask, and hashes of them.

A key is 256 bits of chance, so that its hash tells nothing. Servers that run see what is added or removed
at once.
"""

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, read_regular, try_lock, write_durably
from baremetalrt.core.ids import folded
from baremetalrt.core.places import keys_file
from baremetalrt.core.units import MIB

_PREFIX: Final = "bmrt-"
_MAX_NAME_CHARS: Final = 64
_MAX_KEYS: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """Who asks. `models`: the names of those that may be asked, all if there are none.

    `max_active`: requests of it that are answered at once; `tokens_per_hour`: how many tokens may be
    computed for it within an hour. `digest`: SHA-256 of the key, as hexadecimal digits.
    """

    name: str
    digest: str
    models: tuple[str, ...] = ()
    max_active: int | None = None
    tokens_per_hour: int | None = None
    created: float = 0.0

    def allows(self, model: str) -> bool:
        """Whether a model may be asked; `model` is its name, without adapters."""
        return not self.models or any(folded(model) == folded(one) for one in self.models)


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def stored_keys() -> list[ApiKey]:
    """All of this user's, by name.

    Raises:
        IntegrityError: the file is not what was written.
    """
    path = keys_file()
    try:
        return msgspec.json.decode(read_regular(path, 16 * MIB), type=list[ApiKey])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise IntegrityError(
            f"the keys cannot be read: {error}",
            code="keys.damaged",
            source=str(path),
            hint="mend or remove that file; until then nobody with a key gets in",
        ) from error


def add_key(
    name: str,
    *,
    models: tuple[str, ...] = (),
    max_active: int | None = None,
    tokens_per_hour: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key, and what clients say to show that they have it, which is not kept.

    Raises:
        UsageError: there is one of that name, or the name is none.
        CapacityError: the disk is full or forbidden.
    """
    if not name.strip() or len(name) > _MAX_NAME_CHARS or not name.isprintable():
        raise UsageError(
            f"a key has a name of 1 to {_MAX_NAME_CHARS} letters",
            code="keys.name",
            parameter="name",
        )
    with _changing():
        known = stored_keys()
        if any(folded(name) == folded(one.name) for one in known):
            raise UsageError(
                f"there is a key {name!r} already",
                code="keys.exists",
                parameter="name",
                hint=f"`bmrt keys rm {name}` takes it away",
            )
        if len(known) >= _MAX_KEYS:
            raise UsageError(f"there are {_MAX_KEYS} keys, and no more", code="keys.many")
        secret = _PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            name=name,
            digest=digest_of(secret.encode()),
            models=models,
            max_active=max_active,
            tokens_per_hour=tokens_per_hour,
            created=time.time(),
        )
        _write([*known, key])
    return key, secret


def remove_key(name: str) -> None:
    """Whoever has it is let in no more. Raises `UsageError` where there is none of that name."""
    with _changing():
        known = stored_keys()
        left = [one for one in known if folded(one.name) != folded(name)]
        if len(left) == len(known):
            raise UsageError(
                f"there is no key {name!r}",
                code="keys.not-found",
                parameter="name",
                hint="`bmrt keys ls` lists them",
            )
        _write(left)


def _write(keys: list[ApiKey]) -> None:
    ordered = sorted(keys, key=lambda key: folded(key.name))
    write_durably(keys_file(), msgspec.json.format(msgspec.json.encode(ordered)))


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    with disk_errors():
        keys_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with try_lock(keys_file().with_suffix(".lock")) as is_ours:
            if not is_ours:
                raise UsageError("another process changes the keys now", code="keys.busy")
            yield


class KeyRing:
    """The keys that a server knows: those of its command, and those that are stored."""

    def __init__(self, given: tuple[str, ...] = ()) -> None:
        self._given = {
            digest: ApiKey(name=f"--api-key {i}", digest=digest)
            for i, digest in enumerate((digest_of(key.encode()) for key in given), 1)
        }
        self._stored: dict[str, ApiKey] = {}
        # Where it is does not change while a server runs, and to find out takes a third of a request.
        self._file = keys_file()
        self._seen: tuple[int, ...] | None = None
        self._asks = bool(given)
        self._look()

    @property
    def asks(self) -> bool:
        """Whether a key is asked for; once it is, it stays so, whatever is removed."""
        self._look()
        return self._asks

    def find(self, secret: bytes) -> ApiKey | None:
        """Whose key that is."""
        self._look()
        digest = digest_of(secret)
        return self._given.get(digest) or self._stored.get(digest)

    def _look(self) -> None:
        """Reads the file again, if it is another one."""
        try:
            status = os.stat(self._file)
            seen: tuple[int, ...] = (status.st_mtime_ns, status.st_ino, status.st_size)
        except OSError:
            seen = ()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._stored = {key.digest: key for key in stored_keys()}
        except IntegrityError:
            # Nobody gets in by a file that is not sound.
            self._stored, self._asks = {}, True
            raise
        self._asks = self._asks or bool(self._stored)
