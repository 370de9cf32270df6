"""The joiner's end: turns an invitation into a membership.

The key is made here and stays here, and nothing is said before it is certain who listens.
"""

import asyncio
import hmac
import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from baremetalrt.core.addresses import parse_address
from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.network_reasons import describe_failure
from baremetalrt.membership.authority import (
    Membership,
    check_name,
    keep_membership,
    member_key,
    memberships,
    swarm_names,
)
from baremetalrt.membership.certificates import (
    certificate_pem,
    common_name,
    key_pem,
    new_key,
    why_not_a_member,
)
from baremetalrt.membership.invitations import Invitation, refusal
from baremetalrt.membership.join_protocol import (
    ANSWER,
    HELLO,
    MAX_MESSAGE_BYTES,
    Issued,
    Join,
    Refused,
    Streams,
    close,
    receive,
    send,
)
from baremetalrt.membership.renewing import keep_renewed

# Addresses of other networks, which do not answer at all, may come before the right one.
_CONNECT_S: Final = 5.0


@dataclass(frozen=True)
class Joined:
    """A membership gained, or one that was here already and is now valid for longer."""

    membership: Membership
    is_renewal: bool


async def join(invitation: Invitation, *, now: datetime, local_name: str | None = None) -> Joined:
    """Makes a key here, has it certified by the inviter, and keeps both.

    `local_name` names the swarm on this machine, where its own name is taken.

    Raises:
        UsageError: the invitation has expired or is refused, or nobody answers.
        IntegrityError: whoever answers is not the inviter.
    """
    if now >= invitation.expires_at:
        raise refusal("invitation.expired")
    name = check_name(local_name or invitation.name)
    present = _present(invitation, name, now, is_named=local_name is not None)
    key = member_key(present) if present else new_key()
    authority, certificate, issued = await _ask(invitation, key, now)
    membership = present or keep_membership(
        name,
        {
            "authority.pem": certificate_pem(authority),
            "member.pem": certificate_pem(certificate),
            "member.key": key_pem(key),
        },
    )
    if issued.expulsions:
        try:
            membership.expelled.accept(issued.expulsions)
        except ValueError as error:
            raise _useless("the inviter", str(error)) from error
    if present or issued.for_torrents:
        membership = keep_renewed(membership, issued.certificate, issued.for_torrents, now)
    return Joined(membership, is_renewal=present is not None)


def _present(
    invitation: Invitation, name: str, now: datetime, *, is_named: bool
) -> Membership | None:
    """The membership that the invitation renews, if this machine has it already."""
    for membership in memberships(now=now):
        if hmac.compare_digest(membership.fingerprint, invitation.fingerprint):
            if membership.is_creator:
                raise UsageError(
                    f"{membership.name} was created here: this machine is a member already",
                    code="invitation.own",
                    hint="pass the line on to another machine",
                )
            if is_named and membership.name != name:
                raise UsageError(
                    f"this machine is in that swarm already, as {membership.name}",
                    code="swarm.exists",
                    hint="without --as, the invitation renews its certificate",
                )
            return membership
    if name in swarm_names():
        # Before anything is sent: the invitation is not used up for nothing.
        raise UsageError(
            f"another swarm is named {name} here",
            code="swarm.exists",
            hint="`bmrt swarm join LINE --as NAME` gives the new one another name on this machine",
        )
    return None


async def _ask(
    invitation: Invitation, key: ec.EllipticCurvePrivateKey, now: datetime
) -> tuple[x509.Certificate, x509.Certificate, Issued]:
    """The authority and what it issued, from the first address where the inviter is."""
    stranger: IntegrityError | None = None
    reasons = []
    for address in invitation.addresses:
        try:
            reader, writer = await _connect(address)
        except (OSError, EOFError) as error:
            reasons.append(f"{address}: {describe_failure(error)}")
            continue
        try:
            try:
                authority = await _recognize(reader, writer, address, invitation, now)
            except (OSError, EOFError) as error:
                reasons.append(f"{address}: {describe_failure(error)}")
                continue
            except IntegrityError as error:
                # Elsewhere, a private address belongs to another machine: the next one may be right.
                stranger = error
                continue
            obtained = await _obtain(reader, writer, address, invitation, authority, key, now)
            return authority, *obtained
        finally:
            await close(writer)
    raise stranger or UsageError(
        f"the inviter does not answer ({'; '.join(reasons)})",
        code="invitation.unreachable",
        hint="`bmrt swarm invite` must still be running there, and no firewall in between",
    )


async def _connect(address: str) -> Streams:
    host, port = parse_address(address)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    # The authority is not known yet, and names do not matter: `_recognize` does what this leaves out.
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(_CONNECT_S):
        return await asyncio.open_connection(
            host, port, ssl=tls, limit=MAX_MESSAGE_BYTES, ssl_shutdown_timeout=1.0
        )


async def _recognize(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: str,
    invitation: Invitation,
    now: datetime,
) -> x509.Certificate:
    """The authority's certificate, once it is certain that its holder is at the other end."""

    def stranger(why: str) -> IntegrityError:
        return IntegrityError(
            f"who answers at {address} is not the inviter: {why}",
            source=address,
            code="invitation.wrong-authority",
            hint="nothing was sent there; ask the inviter for a new line, and for the right address",
        )

    try:
        hello = await receive(reader, HELLO)
        authority = x509.load_der_x509_certificate(hello.authority)
        fingerprint = authority.fingerprint(hashes.SHA256())
        name = common_name(authority)
        # TLS made sure that the other end has the key of this one.
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        certificate = x509.load_der_x509_certificate(shown)
    except ValueError as error:
        raise stranger("it speaks differently") from error
    if not hmac.compare_digest(fingerprint, invitation.fingerprint) or name != invitation.name:
        raise stranger("it is of another swarm")
    why_not = why_not_a_member(certificate, authority, now, as_inviter=True)
    if why_not:
        raise stranger(why_not)
    return authority


async def _obtain(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: str,
    invitation: Invitation,
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> tuple[x509.Certificate, Issued]:
    """The certificate for `key`, and all that came with it."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    der = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    try:
        await send(writer, Join(invitation.token, der))
        answer = await receive(reader, ANSWER)
        if isinstance(answer, Refused):
            raise refusal(answer.code)
        certificate = x509.load_der_x509_certificate(answer.certificate)
        is_ours = certificate.public_key() == key.public_key()
    except (OSError, EOFError) as error:
        raise UsageError(
            f"the inviter hung up before the certificate arrived: {describe_failure(error)}",
            code="invitation.interrupted",
            hint="try again; if the invitation is used up by then, ask for a new one",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _useless(address, "it cannot be read") from error
    if not is_ours:
        raise _useless(address, "it is for another key")
    why_not = why_not_a_member(certificate, authority, now)
    if why_not:
        raise _useless(address, why_not)
    return certificate, answer


def _useless(address: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"the inviter sent a certificate that is useless: {why}",
        source=address,
        code="invitation.failed",
    )
