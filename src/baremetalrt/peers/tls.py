"""Who is at the other end: mutual TLS under a swarm's authority, and a name made from the key."""

from typing import Any, Final, cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.units import MIB
from baremetalrt.membership.identity import Identity

# Rows of 512 tokens of the widest models known are 32 MiB. What a host takes depends on what it hosts.
_MAX_MESSAGE_BYTES: Final = 40 * MIB
# A stranger may hold a connection for so long before it has shown a certificate.
_HANDSHAKE_MS: Final = 10_000
# A peer has one, and a few while it looks around.
_MAX_CONNECTIONS: Final = 4096
OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A new host may take the port of one that has died; two at once are a mistake.
    ("grpc.so_reuseport", 0),
    ("grpc.enable_retries", 0),
    # A peer that comes back after hours is called again at once, not within two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Logits of one token are larger than HTTP/2's first window of 64 KiB: without these, every answer
    # waits for the reader to make room, in frames of 16 KiB.
    ("grpc.http2.lookahead_bytes", 4 * MIB),
    ("grpc.http2.max_frame_size", 4 * MIB),
    ("grpc.http2.bdp_probe", 0),
)
SERVER_OPTIONS: Final = (
    *OPTIONS,
    ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
)


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Lets in who has a certificate of the authority, and nobody else.

    Who calls is shown the certificate as it is then: it is renewed while others are connected.
    """
    shown = identity.certificate_pem

    def configuration(certificate: bytes) -> grpc.ServerCertificateConfiguration:
        pair = (identity.key_pem, certificate)
        return grpc.ssl_server_certificate_configuration([pair], identity.authority_pem)

    def renewed() -> Any:  # or None, of which its stubs do not know
        nonlocal shown
        try:
            now = identity.certificate_pem
        except IntegrityError:
            return None
        if now == shown:
            return None
        shown = now
        return configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        configuration(shown), renewed, require_client_authentication=True
    )


def secure_channel(identity: Identity, address: str, name: str) -> grpc.aio.Channel:
    """A connection to `HOST:PORT`, which fails unless the certificate there has that name."""
    credentials = grpc.ssl_channel_credentials(
        identity.authority_pem, identity.key_pem, identity.certificate_pem
    )
    options = (*OPTIONS, ("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(address, credentials, options)


def caller_key(context: "grpc.aio.ServicerContext[Any, Any]") -> ec.EllipticCurvePublicKey:
    """The key in the certificate that TLS has checked for this call."""
    pem = next(iter(context.auth_context()["x509_pem_cert"]))
    key = x509.load_pem_x509_certificate(pem).public_key()
    return cast("ec.EllipticCurvePublicKey", key)
