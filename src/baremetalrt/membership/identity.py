"""Who this machine is in a private swarm: what it shows, and whom it believes."""

from dataclasses import dataclass

from baremetalrt.membership.authority import Membership, member_key
from baremetalrt.membership.certificates import peer_id


@dataclass(frozen=True)
class Identity:
    """A member of a swarm. `id` is the hash of its key; all but `id` and `swarm` are PEM."""

    id: str
    swarm: str
    authority_pem: bytes
    certificate_pem: bytes
    key_pem: bytes


def identity_of(membership: Membership) -> Identity:
    """This machine as a member."""
    return Identity(
        id=peer_id(member_key(membership).public_key()),
        swarm=membership.authority_name,
        authority_pem=membership.authority_pem,
        certificate_pem=membership.certificate_path.read_bytes(),
        key_pem=membership.key_path.read_bytes(),
    )
