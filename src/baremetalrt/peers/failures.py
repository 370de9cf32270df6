"""Why a peer does not answer, in words: the only place that reads what gRPC and TLS say.

Their own texts go to the log, for whoever looks for a bug there.
"""

import logging
from datetime import datetime
from typing import Final

import grpc

_log = logging.getLogger(__name__)
CLOSED: Final = "the connection is closed"
_NO_MEMBER: Final = (
    "it does not let this machine in: it is of another swarm, or by its clock the certificate of "
    "this machine is not valid"
)
# What is in the text of a failed connection, the telling ones first. `{clock}`: see `_of_certificate`.
_CONNECTING: Final = (
    ("certificate is not yet valid", "its certificate is not valid yet{clock}"),
    ("certificate has expired", "its certificate has expired{clock}"),
    ("not in peer certificate", "another machine answers there"),
    ("Hostname Verification", "another machine answers there"),
    ("CERTIFICATE_VERIFY_FAILED", "it is no member of this swarm"),
    ("WRONG_VERSION_NUMBER", "something else answers there, without TLS"),
    ("Tls handshake failed", "there is no secure connection to it"),
    ("Ssl handshake failed", "there is no secure connection to it"),
    ("Connection refused", "nobody listens there"),
    ("unreachable", "no way leads there"),
    ("No route to host", "no way leads there"),
    ("Network is down", "the network is down"),
    ("Handshake read failed", "something else answers there, without TLS"),
    ("Timeout", "no answer in time"),
    ("timed out", "no answer in time"),
    ("Name resolution", "nobody has that name"),
    ("Connection reset", "it hung up"),
)
_BY_CODE: Final = {"peer.expelled": "this machine was put out of the swarm"}
_BY_STATUS: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time",
    grpc.StatusCode.CANCELLED: CLOSED,
    grpc.StatusCode.PERMISSION_DENIED: "it does not answer this machine",
    grpc.StatusCode.UNAUTHENTICATED: "it does not answer this machine",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "it takes no more of this machine at once",
    grpc.StatusCode.UNIMPLEMENTED: "something else answers there",
    grpc.StatusCode.INVALID_ARGUMENT: "it does not understand what it is sent",
    grpc.StatusCode.NOT_FOUND: "it does not know what is meant",
    grpc.StatusCode.INTERNAL: "it failed",
    grpc.StatusCode.UNKNOWN: "it failed",
}

# What gRPC says where something is sent on a call that the other side has just ended.
_WRITE_FAILED: Final = "Internal error from Core"


def describe_call(error: BaseException, now: datetime) -> str:
    """Why a call to a peer ended, in a few words. `now` is what the clock of this machine says (UTC)."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return CLOSED
    status, details = error.code(), error.details() or ""
    _log.debug("gRPC: %s: %s", status.name, details)
    if status is grpc.StatusCode.UNAVAILABLE:
        return _of_connection(details, now)
    if details == _WRITE_FAILED:
        return "it hung up"
    words = _BY_CODE.get(details) or _BY_STATUS.get(status, "it failed")
    # Hosts of ours answer with a code, which those who look for help may be asked for.
    is_code = details.replace(".", "").replace("-", "").isalpha() and details.islower()
    return f"{words} ({details})" if is_code and "." in details else words


def _of_connection(details: str, now: datetime) -> str:
    for said, words in _CONNECTING:
        if said in details:
            clock = f" by the clock of this machine, {now:%Y-%m-%d %H:%M} UTC: is that right, and theirs?"
            return words.format(clock=clock)
    # Who is refused because of a certificate is told nothing: the other side hangs up.
    return _NO_MEMBER if "failed to connect" in details else "it hung up"
