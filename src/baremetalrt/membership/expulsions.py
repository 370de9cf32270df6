"""Who was put out of a private swarm: a list that its authority signs, and that members pass on.

Nothing here touches a disk. A key that is on the list stays there: who is to come back joins with a
new one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from baremetalrt.membership.certificates import Authority

MAX_EXPELLED: Final = 4096
_PEER_BYTES: Final = 20
# What is signed for one purpose proves nothing for another.
_PURPOSE: Final = "baremetalrt expelled 1"
_MAX_ROOT_BYTES: Final = 2048
# The list, the root, the signature, and what is around them.
MAX_SIGNED_BYTES: Final = MAX_EXPELLED * _PEER_BYTES + _MAX_ROOT_BYTES + 1024


@dataclass(frozen=True)
class Expulsions:
    """The peer ids of who was put out. A list with a higher `number` takes the place of others.

    `torrent_root` is the certificate (DER) that members of the swarm are certified under in torrents from
    then on. `signed` is the list as it is passed on.
    """

    number: int
    peers: frozenset[str]
    torrent_root: bytes
    signed: bytes


NOBODY: Final = Expulsions(0, frozenset(), b"", b"")


class _Signed(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    content: bytes
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]


class _Content(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    purpose: str
    # SHA-256 of the authority's certificate
    swarm: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    number: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    # ids one after the other, in order
    peers: Annotated[bytes, msgspec.Meta(max_length=MAX_EXPELLED * _PEER_BYTES)]
    torrent_root: Annotated[bytes, msgspec.Meta(max_length=_MAX_ROOT_BYTES)]


def sign_expulsions(
    authority: Authority, number: int, peers: Iterable[str], torrent_root: x509.Certificate
) -> Expulsions:
    """The list of that number, signed.

    Raises:
        ValueError: it is too long, or a peer id is none.
    """
    ids = sorted(set(peers))
    if len(ids) > MAX_EXPELLED or any(len(one) != 2 * _PEER_BYTES for one in ids):
        raise ValueError("a list that cannot be passed on")
    root = torrent_root.public_bytes(serialization.Encoding.DER)
    content = msgspec.msgpack.encode(
        _Content(
            _PURPOSE,
            authority.certificate.fingerprint(hashes.SHA256()),
            number,
            b"".join(bytes.fromhex(one) for one in ids),
            root,
        )
    )
    signature = authority.key.sign(content, ec.ECDSA(hashes.SHA256()))
    signed = msgspec.msgpack.encode(_Signed(content, signature))
    return Expulsions(number, frozenset(ids), root, signed)


def read_expulsions(signed: bytes, authority: x509.Certificate) -> Expulsions:
    """A list as it was passed on by whomever.

    Raises:
        ValueError: it is not one that this authority signed.
    """
    key = authority.public_key()
    if len(signed) > MAX_SIGNED_BYTES or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("a list that is too long, or an authority of another kind")
    try:
        outer = msgspec.msgpack.decode(signed, type=_Signed)
        key.verify(outer.signature, outer.content, ec.ECDSA(hashes.SHA256()))
        content = msgspec.msgpack.decode(outer.content, type=_Content)
    except (msgspec.MsgspecError, InvalidSignature) as error:
        raise ValueError("a list that the swarm's authority did not sign") from error
    is_meant = content.swarm == authority.fingerprint(hashes.SHA256())
    if content.purpose != _PURPOSE or not is_meant or len(content.peers) % _PEER_BYTES:
        raise ValueError("a list of something else")
    ids = (
        content.peers[start : start + _PEER_BYTES].hex()
        for start in range(0, len(content.peers), _PEER_BYTES)
    )
    return Expulsions(content.number, frozenset(ids), content.torrent_root, signed)
