"""Putting a member out, which its creator alone can."""

from datetime import datetime

from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.files import disk_errors, locked
from baremetalrt.membership.authority import Membership, load_authority, renew_own, utc_now
from baremetalrt.membership.certificates import is_peer_id
from baremetalrt.membership.expulsions import MAX_EXPELLED, Expulsions, sign_expulsions


def expel(membership: Membership, peer: str, *, now: datetime | None = None) -> Expulsions:
    """Puts a member out: signs the list anew. Others hear of it when the list reaches them.

    Raises:
        UsageError: this machine is not the creator, it is its own id, or it is on the list already.
        CapacityError: the list is full, or the disk is.
    """
    authority = load_authority(membership)
    if not is_peer_id(peer):
        raise UsageError(
            f"{peer!r} is not the id of a peer",
            code="expel.id",
            parameter="peer",
            hint="40 hexadecimal digits, or the first six or more of one that `bmrt swarm members` lists",
        )
    if peer == membership.id:
        raise UsageError(
            "that is this machine, which makes the list", code="expel.self", parameter="peer"
        )
    known = membership.expelled
    with disk_errors(), locked(membership.folder / ".expel.lock"):
        before = known.current()
        if peer in before.peers:
            return before
        if len(before.peers) >= MAX_EXPELLED:
            raise CapacityError(
                f"{MAX_EXPELLED} are on the list, and no more fit",
                code="expel.full",
                hint="a new swarm, and invitations for those who stay, begin a new list",
            )
        now, number = now or utc_now(), before.number + 1
        root = membership.torrents.new_root(membership.authority_name, number, now)
        signed = sign_expulsions(authority, number, {*before.peers, peer}, root.certificate)
        known.accept(signed.signed)
        renew_own(membership, now)
        membership.torrents.forget_older_roots()
    return signed
