"""Whom the creator of a swarm has certified: who joined, when, and until when they are members."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final

import msgspec

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, locked, write_durably
from baremetalrt.membership.authority import Membership
from baremetalrt.membership.expulsions import MAX_EXPELLED

_FILE: Final = "members.json"
_MIN_PREFIX: Final = 6
# More than a swarm has; who lapsed longest is forgotten first.
_MAX_RECORDS: Final = 4 * MAX_EXPELLED


class MemberRecord(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One key that was certified. Times are seconds since 1970, UTC."""

    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{40}\Z")]
    joined_at: int
    expires_at: int


def members_of(membership: Membership) -> list[MemberRecord]:
    """Who was certified here, in the order in which they joined.

    Raises:
        IntegrityError: the record is damaged.
    """
    path = membership.folder / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[MemberRecord])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise IntegrityError(
            f"the record of members is damaged: {error}",
            source=str(path),
            code="swarm.damaged",
            hint=f"remove {path}: members write themselves in again as they renew",
        ) from error


def note_certified(membership: Membership, peer: str, now: datetime, expires_at: datetime) -> None:
    """Notes down that a member has a certificate until then."""
    with disk_errors(), locked(membership.folder / ".members.lock"):
        known = {one.id: one for one in members_of(membership)}
        joined_at = known[peer].joined_at if peer in known else int(now.timestamp())
        known[peer] = MemberRecord(peer, joined_at, int(expires_at.timestamp()))
        kept = sorted(known.values(), key=lambda one: one.expires_at)[-_MAX_RECORDS:]
        kept.sort(key=lambda one: one.joined_at)
        write_durably(membership.folder / _FILE, msgspec.json.encode(kept))


def the_peer(text: str, known: Iterable[str]) -> str:
    """The id that `text` is, or begins, among those that are known; any whole id is itself.

    Raises:
        UsageError: it begins none, or several.
    """
    found = sorted({one for one in known if one.startswith(text)})
    if len(found) == 1 and len(text) >= _MIN_PREFIX:
        return found[0]
    if len(text) >= _MIN_PREFIX and len(found) > 1:
        raise UsageError(
            f"{text} begins the ids of several members",
            code="expel.id",
            parameter="peer",
            hint="one of " + ", ".join(found[:5]),
        )
    return text
