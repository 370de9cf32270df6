"""Certificates that are renewed: the creator's end, which signs, and the member's, which keeps them."""

from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from baremetalrt.core.errors import IntegrityError
from baremetalrt.membership.authority import (
    Membership,
    load_authority,
    member_key,
    renew,
    utc_now,
)
from baremetalrt.membership.certificates import issue, peer_id, why_not_a_member
from baremetalrt.membership.roster import note_certified


class Renewals:
    """Signs new certificates for members, at the creator of their swarm."""

    def __init__(self, membership: Membership, clock: Callable[[], datetime] = utc_now) -> None:
        """Raises `UsageError` where the swarm was created elsewhere."""
        self._membership = membership
        self._authority = load_authority(membership)
        self._clock = clock

    def certificates(self, key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
        """Those for the holder of this key (DER), who has shown a certificate that is still good.

        The second is for torrents; empty while nobody was put out.

        Raises:
            CapacityError: it cannot be noted down.
        """
        now = self._clock()
        certificate = issue(self._authority, key, now)
        expires_at = certificate.not_valid_after_utc
        note_certified(self._membership, peer_id(key), now, expires_at)
        root = self._membership.torrents.root()
        return _der(certificate), _der(issue(root, key, now)) if root else b""


def keep_renewed(membership: Membership, der: bytes, torrents: bytes, now: datetime) -> Membership:
    """Puts the certificates that somebody sent in place of this member's, if they prove more.

    Raises:
        IntegrityError: it does not.
        CapacityError: it cannot be written.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        for_torrents = x509.load_der_x509_certificate(torrents) if torrents else None
        key = member_key(membership).public_key()
        is_ours = all(c.public_key() == key for c in (certificate, for_torrents) if c is not None)
    # Others write it, and the errors of parsing it have no common base.
    except Exception as error:
        raise _useless("it cannot be read") from error
    authority = x509.load_pem_x509_certificate(membership.authority_pem)
    why_not = why_not_a_member(certificate, authority, now)
    if not is_ours:
        why_not = "it is for another key"
    elif certificate.not_valid_after_utc < membership.expires_at:
        why_not = why_not or "it ends sooner"
    if why_not:
        raise _useless(why_not)
    return renew(membership, certificate, for_torrents)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _useless(why: str) -> IntegrityError:
    return IntegrityError(
        f"a renewed certificate is useless: {why}", source="a peer", code="swarm.renewal"
    )
