"""HTTP over TLS: with a certificate of one's own, or of the authority of a private swarm."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.hosting.web_certificate import make_web_certificate

# In the place of a file.
SWARM: Final = "swarm"


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """`certificate`: a PEM file, or `SWARM`; `key`: another one, if the key is not in the first."""

    certificate: str
    key: Path | None = None


@dataclass(frozen=True)
class TlsFiles:
    """What is shown to clients, and what they have to trust, if that is known."""

    certificate: Path
    key: Path | None
    authority: Path | None = None


def tls_files(
    config: TlsConfig, swarm: str | None, host: str, host_names: Sequence[str]
) -> TlsFiles:
    """The files of a server, which were tried.

    Raises:
        UsageError: they are no certificate with its key, or there is no such swarm.
    """
    if config.certificate == SWARM:
        made = make_web_certificate(swarm, host, host_names)
        files = TlsFiles(made.path, None, made.authority_path)
    else:
        files = TlsFiles(Path(config.certificate).expanduser(), config.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key with a passphrase would have Python ask for it on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UsageError(
            f"{files.certificate} is no certificate to serve with: {reason}",
            code="tls.invalid",
            parameter="tls",
            hint="a PEM file with the certificate, those that it stands on, and the key, or the key in a "
            "file of its own by --tls-key",
        ) from error
    return files


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase, and nobody is there to type it")
