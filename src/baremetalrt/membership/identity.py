"""Who this machine is in a private swarm: what it shows, and whom it believes."""

from dataclasses import dataclass
from pathlib import Path

from baremetalrt.core.errors import IntegrityError
from baremetalrt.membership.authority import Membership
from baremetalrt.membership.expelled import ExpelledList


@dataclass(frozen=True)
class Identity:
    """A member of a swarm. `id` is the hash of its key, which stays; its certificate is renewed.

    `authority_pem` says who the members are, but for those that are on the list `expelled`.
    """

    id: str
    swarm: str
    authority_pem: bytes
    key_pem: bytes
    certificate_path: Path
    expelled: ExpelledList

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as it is now.

        Raises:
            IntegrityError: it is gone.
        """
        try:
            return self.certificate_path.read_bytes()
        except OSError as error:
            raise IntegrityError(
                f"the certificate for the swarm {self.swarm} cannot be read: {error.strerror}",
                source=str(self.certificate_path),
                code="swarm.damaged",
            ) from error


def identity_of(membership: Membership) -> Identity:
    """This machine as a member."""
    return Identity(
        id=membership.id,
        swarm=membership.authority_name,
        authority_pem=membership.authority_pem,
        key_pem=membership.key_path.read_bytes(),
        certificate_path=membership.certificate_path,
        expelled=membership.expelled,
    )
