"""Lists that are signed: whoever has one can check it, wherever it came from.

A signed list is a text: a first line that says what it is, the publisher's key, the signature of what
follows, and the list in TOML with its name, its number, and the dates between which it holds. Numbers
only grow, so that an older list cannot be passed off for a newer one; a list that nobody signs anew
expires.

Source: RFC 8032 for Ed25519.
"""

import re
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.units import MIB, format_bytes
from baremetalrt.index.lists import NAME_PATTERN, ListedModel, quoted, read_list, write_list

MAX_LIST_BYTES: Final = MIB
_FIRST_LINE: Final = b"bmrt-list 1"
_PURPOSE: Final = b"baremetalrt list of models 1\n"
_HOLDS_FOR: Final = timedelta(days=90)
# Clocks of two machines differ, and one of them may be wrong by a time zone.
_CLOCKS_DIFFER: Final = timedelta(days=1)


@dataclass(frozen=True)
class SignedList:
    """A list whose signature was checked. `key`: 64 hexadecimal digits."""

    key: str
    name: str
    number: int
    signed_at: datetime
    expires_at: datetime
    models: tuple[ListedModel, ...]
    raw: bytes

    def is_due(self, now: datetime) -> bool:
        """Whether it is time to sign it anew: half of its time is over."""
        return now > self.signed_at + (self.expires_at - self.signed_at) / 2


class _Head(msgspec.Struct):
    name: str
    number: int
    signed_at: datetime
    expires_at: datetime


def sign_list(
    key: Ed25519PrivateKey,
    name: str,
    models: tuple[ListedModel, ...],
    *,
    after: int,
    now: datetime,
) -> SignedList:
    """A list that holds from now on; its number is greater than `after`.

    Raises:
        IntegrityError: it would be too large.
    """
    number = max(after + 1, int(now.timestamp()))
    now = now.astimezone(UTC).replace(microsecond=0)
    head = [
        f"name = {quoted(name)}",
        f"number = {number}",
        f"signed_at = {now.isoformat()}",
        f"expires_at = {(now + _HOLDS_FOR).isoformat()}",
        "",
        "",
    ]
    text = ("\n".join(head) + write_list(models)).encode()
    signature = key.sign(_PURPOSE + text)
    public = key.public_key().public_bytes_raw()
    lines = [_FIRST_LINE, public.hex().encode(), signature.hex().encode(), text]
    return read_signed(b"\n".join(lines), "the list", now)


def read_signed(raw: bytes, where: str, now: datetime | None) -> SignedList:
    """Checks a signed list; `where` it came from is for messages. Without `now`, dates do not matter.

    Raises:
        IntegrityError: it is none, or too large, was changed by somebody, or does not hold now.
    """
    if len(raw) > MAX_LIST_BYTES:
        raise _bad(where, f"is larger than {format_bytes(MAX_LIST_BYTES)}", "index.huge")
    key, text = _verified(raw, where)
    try:
        said = tomllib.loads(text.decode())
        head = msgspec.convert(said, _Head)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise _bad(where, f"cannot be read: {error}") from error
    if not re.fullmatch(NAME_PATTERN, head.name, re.ASCII):
        raise _bad(where, f"has no name: {head.name[:80]!r}")
    if head.signed_at.tzinfo is None or head.expires_at.tzinfo is None:
        raise _bad(where, "has dates without a time zone")
    if now is not None:
        _require_holds(head, where, now)
    models = tuple(read_list(text.decode(), where))
    return SignedList(
        key.hex(), head.name, head.number, head.signed_at, head.expires_at, models, raw
    )


def _require_holds(head: _Head, where: str, now: datetime) -> None:
    if now > head.expires_at + _CLOCKS_DIFFER:
        raise _bad(
            where,
            f"expired on {head.expires_at.date()}",
            "index.expired",
            hint="its publisher has to sign it anew: `bmrt serve` there does",
        )
    if head.signed_at > now + _CLOCKS_DIFFER:
        raise _bad(
            where,
            f"is dated {head.signed_at.date()}, which is to come",
            "index.not-yet",
            hint="the clock of this machine, or of its publisher's, is wrong",
        )


def _verified(raw: bytes, where: str) -> tuple[bytes, bytes]:
    """The key of whoever signed it, and what was signed."""
    parts = raw.split(b"\n", 3)
    if len(parts) != 4 or parts[0].strip() != _FIRST_LINE:
        raise _bad(where, "is no signed list of models")
    try:
        key, signature = bytes.fromhex(parts[1].decode()), bytes.fromhex(parts[2].decode())
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _PURPOSE + parts[3])
    except (InvalidSignature, ValueError) as error:
        raise _bad(
            where,
            "is not as its publisher signed it",
            "index.forged",
            hint="whoever sent it has changed it, or it was cut off",
        ) from error
    return key, parts[3]


def _bad(
    where: str, what: str, code: str = "index.damaged", hint: str | None = None
) -> IntegrityError:
    return IntegrityError(f"{where} {what}", code=code, source=where, hint=hint)
