"""A certificate for HTTP over TLS, signed by the authority of a private swarm that was created here."""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.membership.authority import load_authority, the_membership
from baremetalrt.membership.certificates import (
    certificate_pem,
    issue_for_names,
    key_pem,
    new_key,
)

_EVERY: Final = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class WebCertificate:
    """Files: the certificate with its key, and the authority that clients have to trust."""

    path: Path
    authority_path: Path


def make_web_certificate(swarm: str | None, host: str, host_names: Sequence[str]) -> WebCertificate:
    """A new one, for the names and addresses by which this machine is reached at `host`.

    Raises:
        UsageError: there is no such swarm, or this machine did not create it.
        CapacityError: the disk is full or forbidden.
    """
    membership = the_membership(swarm)
    authority, key = load_authority(membership), new_key()
    names = [*_own_names(host), *host_names]
    certificate = issue_for_names(
        authority, key.public_key(), datetime.now(UTC), list(dict.fromkeys(names))
    )
    path = membership.folder / "https.pem"
    with disk_errors():
        write_durably(path, certificate_pem(certificate) + key_pem(key))
    return WebCertificate(path, membership.authority_path)


def _own_names(host: str) -> list[str]:
    names = ["localhost", "127.0.0.1", "::1"]
    bare = host.strip("[]")
    if bare not in _EVERY:
        return [*names, bare]
    name = socket.gethostname()
    names += [name, f"{name}.local"] if name and "." not in name else [name] * bool(name)
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                # Of addresses that are good on one link alone, other machines have other names.
                address = ipaddress.ip_address(one.address.partition("%")[0])
                if not address.is_link_local:
                    names.append(str(address))
    return names
