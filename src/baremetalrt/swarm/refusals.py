"""Why a peer of a private swarm got no connection, in words.

The side that refuses knows more than the side that is refused; libtorrent hands on what TLS says.
Source: RFC 8446, section 6.2, for the alerts.
"""

from typing import Final

import libtorrent as lt

_TLS: Final = "asio.ssl"
_REASONS: Final = {
    "certificate verify failed": "its certificate has expired, or is not of this swarm's authority",
    "peer did not return a certificate": "it shows no certificate",
    "certificate required": "it asks for a certificate, and none was shown",
    "unknown ca": "it does not know this swarm's authority: it belongs to another swarm",
    "certificate expired": "it says that our certificate has expired",
    "bad certificate": "it does not take our certificate",
    "handshake failure": "it has no certificate to show yet",
    "packet length too long": "it does not speak TLS: it is no member",
    "wrong version number": "it does not speak TLS: it is no member",
    "http request": "it does not speak TLS: it is no member",
}


def explain_refusal(alert: lt.peer_error_alert | lt.peer_disconnected_alert) -> str | None:
    """What came between us and a peer of a private swarm; None if it was nothing of that kind."""
    if alert.error.category().name() != _TLS:
        return None
    said = str(alert.error.message())
    for words, reason in _REASONS.items():
        if words in said.lower():
            return f"{reason} ({said})"
    return said
