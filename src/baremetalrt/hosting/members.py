"""Who is in a private swarm that was created here, and putting somebody out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from baremetalrt.hosting.neighbours import Neighbours, local_network
from baremetalrt.membership.authority import Membership, find_membership, load_authority
from baremetalrt.membership.expelling import expel
from baremetalrt.membership.roster import members_of, the_peer


@dataclass(frozen=True)
class MemberReport:
    """A member, as its creator knows it; times are None of one that was put out and never let in here."""

    id: str
    joined_at: datetime | None
    expires_at: datetime | None
    is_expelled: bool


@dataclass(frozen=True)
class PutOut:
    """Who was put out by the list of that number, and the ids of those who were told at once."""

    id: str
    number: int
    told: Sequence[str]


def list_members(swarm: str) -> list[MemberReport]:
    """Who was let into a swarm, in the order in which they came, and who was put out.

    Raises:
        UsageError: there is no such swarm, or it was created elsewhere.
    """
    membership = find_membership(swarm)
    load_authority(membership)
    expelled = membership.expelled.current().peers
    let_in = members_of(membership)
    reports = [
        MemberReport(one.id, _time(one.joined_at), _time(one.expires_at), one.id in expelled)
        for one in let_in
    ]
    others = sorted(expelled - {one.id for one in let_in})
    return reports + [MemberReport(one, None, None, is_expelled=True) for one in others]


async def put_out(swarm: str, peer: str, peers: Sequence[str] = ()) -> PutOut:
    """Puts a member out, and tells those who answer at `peers`, or else on the local network.

    Others hear of it from them, as peers ask each other what they host. `peer` is an id, or the beginning
    of one that was let in.

    Raises:
        UsageError: the swarm was created elsewhere, or there is no such peer.
        CapacityError: there is no room on the disk.
    """
    membership = find_membership(swarm)
    id_ = the_peer(peer.lower(), [one.id for one in members_of(membership)])
    expulsions = expel(membership, id_)
    return PutOut(id_, expulsions.number, await _tell(membership, expulsions.number, peers))


async def _tell(membership: Membership, number: int, peers: Sequence[str]) -> list[str]:
    network = None if peers else local_network(membership)
    async with Neighbours(membership, peers, network) as neighbours:
        return [one.id for one in await neighbours.look() if one.about.expulsions >= number]


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
