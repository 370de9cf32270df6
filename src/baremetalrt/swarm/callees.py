"""Whom a torrent may have this machine call: the trackers, mirrors, nodes and peers that strangers name.

A URL in a torrent is a request that this machine makes in its own network, where services trust it. So
strangers' URLs lead to the public internet alone; what is on this machine, or on a network of its own,
is called where its user said so: as a tracker or mirror of their own torrent, or in `local_hosts`.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import psutil

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Use = Literal["tracker", "mirror"]
# Not the networks for examples and measurements: nobody is there, and some name servers answer with them.
# Source: RFC 6890, RFC 4291.
NOT_PUBLIC: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "224.0.0.0/3"),
        *("::/127", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)
# The last four bytes are an IPv4 address. Source: RFC 4291, RFC 6052.
_WRAPPED: Final = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96")))
# One way to write a URL: what is read differently by two programs is no way to name a host.
_URL: Final = re.compile(
    r"(?P<scheme>https?|udp)://"
    r"(?P<host>[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?\.?|\[[0-9a-f:.]+\])"
    r"(?P<port>:[0-9]{1,5})?(?P<path>/[!-\[\]-~]*)?",
    re.IGNORECASE,
)
_SCHEMES: Final[dict[Use, tuple[str, ...]]] = {
    "tracker": ("http", "https", "udp"),
    "mirror": ("http", "https"),
}
# A darknet is reached by a program of this machine.
_DARK: Final = (".i2p", ".onion")
MAX_URLS: Final = 100
LOCAL_REFUSAL: Final = (
    "it is on this machine or a network of its own, and not among `local_hosts` in config.toml"
)


@dataclass(frozen=True)
class Callees:
    """What is known of this machine: `local_hosts` that may be called, and addresses of its own."""

    local_hosts: frozenset[str]
    own_addresses: frozenset[Address]

    @classmethod
    def of_this_machine(cls, local_hosts: Iterable[str]) -> "Callees":
        """As the system says it now."""
        listed = (a.address for found in psutil.net_if_addrs().values() for a in found)
        own = frozenset(ip for one in listed if (ip := _literal(one)) is not None)
        return cls(frozenset(_bare(host) for host in local_hosts), own)

    def judge(self, url: str, use: Use) -> "Verdict":
        """What is to be done about a stranger's URL."""
        match = _URL.fullmatch(url)
        if match is None or match["scheme"].lower() not in _SCHEMES[use]:
            return Verdict(url, refusal="it is no address of a kind that is called")
        host = _bare(match["host"])
        if host in self.local_hosts:
            return Verdict(url)
        if host.endswith(_DARK):
            return Verdict(url, refusal="darknets are not called")
        literal = _literal(host)
        if literal is None:
            return Verdict(url, look_up=host)
        return Verdict(url, refusal=None if self.is_public(literal) else LOCAL_REFUSAL)

    def is_public(self, address: Address | str) -> bool:
        """Whether an address lies beyond this machine and every network of its own."""
        ip = _literal(address) if isinstance(address, str) else address
        if ip is None or ip in self.own_addresses:
            return False
        inner = _inner(ip)
        if inner is not None:
            return self.is_public(inner)
        return not any(ip in network for network in NOT_PUBLIC if network.version == ip.version)

    def public_endpoints(self, endpoints: Iterable[str]) -> list[tuple[str, int]]:
        """Those of `HOST:PORT` that are addresses in numbers, and public."""
        found = []
        for endpoint in endpoints:
            host, _, port = endpoint.rpartition(":")
            if port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536:
                host = host.removeprefix("[").removesuffix("]")
                if self.is_public(host):
                    found.append((host, int(port)))
        return found


@dataclass(frozen=True)
class Verdict:
    """Call it; or look its host up first, and call it if all its addresses are public; or do not."""

    url: str
    look_up: str | None = None
    refusal: str | None = None


def _literal(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _inner(ip: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(ip, ipaddress.IPv4Address) or int(ip) <= 1:
        return None
    if any(ip in network for network in _WRAPPED):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def _bare(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
