"""Invitations into a private swarm: the line that is passed on, and the inviter's record of it.

The line holds a secret, the token, which is worth something until it is used up or expires. The
inviter keeps only the token's hash.
"""

import base64
import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, TypeAlias

import msgspec

from baremetalrt.core.addresses import ADDRESS_PATTERN, parse_address
from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, locked, write_durably
from baremetalrt.membership.authority import Membership
from baremetalrt.membership.certificates import SWARM_NAME_PATTERN

_LINE_PREFIX: Final = "bmrt-invite:"
_VERSION: Final = 1
_MAX_LINE_CHARS: Final = 4096
_TOKEN_BYTES: Final = 16
MAX_ADDRESSES: Final = 8
# Until 9999, where `datetime` ends.
_MAX_TIME: Final = 253_402_300_799
# Records outlive their invitation by this much, so that latecomers are told what happened.
_KEEP_RECORDS: Final = timedelta(days=7)

_SwarmName: TypeAlias = Annotated[str, msgspec.Meta(pattern=SWARM_NAME_PATTERN)]
_Address: TypeAlias = Annotated[str, msgspec.Meta(pattern=ADDRESS_PATTERN)]
_Time: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TIME)]


class _Content(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What the line encodes after its version, as a MessagePack array."""

    name: _SwarmName
    fingerprint: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    addresses: Annotated[tuple[_Address, ...], msgspec.Meta(min_length=1, max_length=MAX_ADDRESSES)]
    token: Annotated[bytes, msgspec.Meta(min_length=_TOKEN_BYTES, max_length=_TOKEN_BYTES)]
    expires_at: _Time


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """What the inviter knows of one invitation."""

    token_sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    expires_at: _Time
    uses_left: Annotated[int, msgspec.Meta(ge=0)]


# Why a join is refused, as it is told to either side: what happened, and what helps.
_ASK_AGAIN: Final = "ask the swarm's creator for a new one: `bmrt swarm invite`"
_REFUSALS: Final = {
    "invitation.unknown": ("the inviter does not know this invitation", _ASK_AGAIN),
    "invitation.used": ("the invitation has been used already, or withdrawn", _ASK_AGAIN),
    "invitation.expired": (
        "the invitation has expired",
        f"{_ASK_AGAIN}; or the clock of a machine is wrong",
    ),
    "invitation.expelled": (
        "this machine was put out of the swarm",
        "`bmrt swarm leave`, and then a new invitation, if its creator gives one",
    ),
    "invitation.request": (
        "the inviter did not accept what was sent",
        "both sides may need the same release of bmrt",
    ),
    "invitation.failed": ("the inviter failed to answer", "its log says why"),
}


@dataclass(frozen=True)
class Invitation:
    """What a new member needs: whom to call, how to know them, and what to show.

    `fingerprint` is the SHA-256 of the authority's certificate, `addresses` are `HOST:PORT`.
    """

    name: str
    fingerprint: bytes
    addresses: tuple[str, ...]
    token: bytes
    expires_at: datetime

    def line(self) -> str:
        """One line without spaces, to be pasted."""
        content = _Content(
            name=self.name,
            fingerprint=self.fingerprint,
            addresses=self.addresses,
            token=self.token,
            expires_at=int(self.expires_at.timestamp()),
        )
        data = bytes([_VERSION]) + msgspec.msgpack.encode(content)
        return _LINE_PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def parse_invitation(text: str) -> Invitation:
    """The invitation in a pasted line, even if the paste was wrapped.

    Raises:
        UsageError: the line holds none.
    """
    line = "".join(text[: _MAX_LINE_CHARS + 1].split())
    if not line.startswith(_LINE_PREFIX):
        raise _malformed(f"it does not begin with {_LINE_PREFIX}")
    if len(text) > _MAX_LINE_CHARS:
        raise _malformed("it is too long")
    encoded = line.removeprefix(_LINE_PREFIX)
    try:
        # The decoder for URLs skips characters that it does not know; this one refuses them.
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        is_known = data[:1] == bytes([_VERSION])
        content = msgspec.msgpack.decode(data[1:], type=_Content) if is_known else None
        addresses = [parse_address(address) for address in content.addresses] if content else []
    except (ValueError, msgspec.MsgspecError, UsageError) as error:
        raise _malformed("a part is missing or has changed") from error
    if content is None:
        raise _malformed("another release of bmrt made it")
    if any(port == 0 for _, port in addresses):
        raise _malformed("an address has no port")
    return Invitation(
        name=content.name,
        fingerprint=content.fingerprint,
        addresses=content.addresses,
        token=content.token,
        expires_at=datetime.fromtimestamp(content.expires_at, UTC),
    )


def refusal(code: str) -> UsageError:
    """The error for a refused join. Codes that nobody knows become `invitation.failed`."""
    code = code if code in _REFUSALS else "invitation.failed"
    message, hint = _REFUSALS[code]
    return UsageError(message, code=code, hint=hint)


def invite(
    membership: Membership,
    addresses: Sequence[str],
    *,
    expires_at: datetime,
    num_uses: int,
    now: datetime,
) -> Invitation:
    """Makes an invitation, and notes down that it was made.

    Raises:
        UsageError: the addresses are none, or too many.
    """
    if not 1 <= len(addresses) <= MAX_ADDRESSES:
        raise UsageError(
            f"an invitation has between one and {MAX_ADDRESSES} addresses", parameter="address"
        )
    token = secrets.token_bytes(_TOKEN_BYTES)
    expires_at = expires_at.replace(microsecond=0)
    with _changing(membership, now) as records:
        records.append(_Record(_digest(token), int(expires_at.timestamp()), num_uses))
    return Invitation(
        name=membership.authority_name,
        fingerprint=membership.fingerprint,
        addresses=tuple(addresses),
        token=token,
        expires_at=expires_at,
    )


def check_token(membership: Membership, token: bytes, now: datetime) -> None:
    """Nothing, while the token can be used.

    Raises:
        UsageError: it is unknown, used up, or expired.
    """
    _usable(_read(membership), token, now)


def use_token(membership: Membership, token: bytes, now: datetime) -> int:
    """Uses the token once, and for good when this returns. How many uses are left.

    Raises:
        UsageError: it is unknown, used up, or expired.
    """
    with _changing(membership, now) as records:
        record = _usable(records, token, now)
        record.uses_left -= 1
        return record.uses_left


def uses_left(membership: Membership, token: bytes) -> int:
    """How often the token can still be used, if it has not expired."""
    record = _find(_read(membership), token)
    return record.uses_left if record else 0


def withdraw(membership: Membership, token: bytes, now: datetime) -> None:
    """Makes the token worthless."""
    with _changing(membership, now) as records:
        record = _find(records, token)
        if record:
            record.uses_left = 0


def _usable(records: list[_Record], token: bytes, now: datetime) -> _Record:
    record = _find(records, token)
    if record is None:
        raise refusal("invitation.unknown")
    if record.uses_left == 0:
        raise refusal("invitation.used")
    if now.timestamp() >= record.expires_at:
        raise refusal("invitation.expired")
    return record


def _find(records: list[_Record], token: bytes) -> _Record | None:
    digest = _digest(token)
    # All are compared, each in the same time: how long it takes says nothing about them.
    matches = [r for r in records if hmac.compare_digest(r.token_sha256, digest)]
    return matches[0] if matches else None


def _digest(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()


def _read(membership: Membership) -> list[_Record]:
    path = membership.folder / "invitations.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[_Record])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise IntegrityError(
            f"the list of invitations is damaged: {error}",
            source=str(path),
            code="swarm.damaged",
            hint=f"remove {path}: invitations that are still open are lost with it",
        ) from error


@contextlib.contextmanager
def _changing(membership: Membership, now: datetime) -> Iterator[list[_Record]]:
    """The records, for one process at a time; written for good when nothing was raised."""
    with disk_errors(), locked(membership.folder / ".invitations.lock"):
        oldest = (now - _KEEP_RECORDS).timestamp()
        records = [r for r in _read(membership) if r.expires_at >= oldest]
        yield records
        write_durably(membership.folder / "invitations.json", msgspec.json.encode(records))


def _malformed(why: str) -> UsageError:
    return UsageError(
        f"this is not an invitation: {why}",
        code="invitation.malformed",
        hint="paste the whole line that `bmrt swarm invite` printed",
    )
