"""The certificates of private swarms: who signs them, what they say, what they prove.

Nothing here touches a disk or reads a clock.
"""

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SWARM_NAME_PATTERN: Final = r"\A[a-z0-9][a-z0-9-]{0,39}\Z"
_AUTHORITY_LIFE: Final = timedelta(days=3652)
# A certificate whose holder was put out, where nobody has heard of it, ends soon by itself.
MEMBER_LIFE: Final = timedelta(days=30)
# As long as browsers believe one.
_SERVER_LIFE: Final = timedelta(days=397)
# Of servers that answer over HTTP: they are told by their alternative names.
_SERVER: Final = "BareMetalRT"
_PEER_ID: Final = re.compile(r"[0-9a-f]{40}")
# The clocks of machines at home disagree: what was made just now must be valid on the others, too.
_CLOCK_SKEW: Final = timedelta(hours=1)
# libtorrent lets a peer in if its certificate names the torrent, or has this name, which stands for all
# of them. It looks among the alternative names, and then at the common name: there, no other library
# takes it for a pattern of host names. Source: libtorrent, torrent.cpp, `verify_peer_cert`.
_ANY_TORRENT: Final = "*"
# Tells the creator from members, who must not be able to answer for it. The dot keeps it apart from
# the names that swarms can have.
_INVITER: Final = "inviter.swarm"


@dataclass(frozen=True)
class Authority:
    """What makes certificates; the creator of a swarm holds it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def is_swarm_name(name: str) -> bool:
    """Whether a swarm can have that name; such a name is safe as that of a folder."""
    return re.match(SWARM_NAME_PATTERN, name) is not None


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key, the kind that every TLS library takes."""
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(name: str, now: datetime) -> Authority:
    """A self-signed certificate authority for the swarm `name`."""
    key = new_key()
    certificate = (
        _builder(name, name, key.public_key(), now, now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    *,
    is_inviter: bool = False,
) -> x509.Certificate:
    """A certificate for one member, valid for `MEMBER_LIFE` or as long as the authority is."""
    swarm = common_name(authority.certificate)
    expires_at = min(now + MEMBER_LIFE, authority.certificate.not_valid_after_utc)
    names = [swarm, peer_name(peer_id(public_key))]
    if is_inviter:
        names.append(_INVITER)
    usages = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return (
        _builder(swarm, _ANY_TORRENT, public_key, now, expires_at)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False
        )
        .add_extension(signer, critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def issue_for_names(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    names: Sequence[str],
) -> x509.Certificate:
    """A certificate for a server by its host names and addresses, which makes no member."""
    expires_at = min(now + _SERVER_LIFE, authority.certificate.not_valid_after_utc)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    usages = (ExtendedKeyUsageOID.SERVER_AUTH,)
    return (
        _builder(common_name(authority.certificate), _SERVER, public_key, now, expires_at)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        .add_extension(signer, critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def peer_id(public_key: ec.EllipticCurvePublicKey) -> str:
    """Who a key belongs to: the first 160 bits of its SHA-256, in hexadecimal."""
    encoded = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(encoded).hexdigest()[:40]


def is_peer_id(text: str) -> bool:
    """Whether a peer can have that id."""
    return _PEER_ID.fullmatch(text) is not None


def peer_name(peer: str) -> str:
    """The name in a member's certificate that TLS compares with whom the caller meant to reach."""
    return f"{peer}.peer"


def why_not_a_member(
    certificate: x509.Certificate,
    authority: x509.Certificate,
    now: datetime,
    *,
    as_inviter: bool = False,
) -> str | None:
    """Why `certificate` proves nothing under `authority` at that time; None if it does prove it."""
    try:
        if not authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "the authority is none"
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        is_inviter = _INVITER in names.get_values_for_type(x509.DNSName)
    # Strangers write certificates, and the errors of parsing them have no common base.
    except Exception:
        return "its certificate is not from the swarm's authority"
    for one, whose in ((certificate, "its certificate"), (authority, "the authority")):
        if now > one.not_valid_after_utc:
            return f"{whose} expired on {one.not_valid_after_utc:%Y-%m-%d}"
        if now < one.not_valid_before_utc - _CLOCK_SKEW:
            return f"{whose} is not valid yet; is the clock of this machine right?"
    if as_inviter and not is_inviter:
        return "its certificate is a member's, not the creator's"
    return None


def common_name(authority: x509.Certificate) -> str:
    """The name that an authority gave its swarm.

    Raises:
        ValueError: it has none that a swarm can have.
    """
    values = authority.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(values) != 1 or not is_swarm_name(str(values[0].value)):
        raise ValueError("an authority without the name of a swarm")
    return str(values[0].value)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as it is kept on disk."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as it is kept on disk: without a passphrase, since it is used unattended."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _builder(
    issuer: str,
    subject: str,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    expires_at: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(expires_at)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
