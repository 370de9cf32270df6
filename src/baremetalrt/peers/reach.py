"""Where a host may be told to connect, and how often in vain. Pure: addresses and the time go in.

An address that a peer has announced for itself would prove nothing: who is told to connect, and who has
it announced, may be one member. So what is bounded is what anybody could learn by it.
"""

import ipaddress
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from baremetalrt.core.addresses import format_address, parse_address
from baremetalrt.core.errors import UsageError

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
# A host, in the words of gRPC, and the id of the peer that is expected there.
Target: TypeAlias = tuple[str, str]

# Ports below are those of other services, which a member has no business to have called.
_FIRST_PORT: Final = 1024
# Addresses at which nobody has shown to be who was meant, for each member; honest ones know who answers.
MAX_UNPROVEN: Final = 16
FORGOTTEN_AFTER_S: Final = 600.0
_MAX_REACHED: Final = 1024


class AddressError(Exception):
    """Not an address at which a peer could be, or one too many."""


def _unmapped(ip: IPAddress) -> IPAddress:
    return getattr(ip, "ipv4_mapped", None) or ip


def _nearness(ip: IPAddress) -> int:
    """2 for this machine, 1 for networks at home, 0 for the rest of the world."""
    return 2 if ip.is_loopback else 0 if ip.is_global else 1


def read_ip(address: str) -> IPAddress | None:
    """The IP address in `HOST:PORT`; None where it is a name, or has a zone."""
    try:
        return _unmapped(ipaddress.ip_address(parse_address(address)[0]))
    except (UsageError, ValueError):
        return None


def target_of(address: str, *, named_from: IPAddress | None) -> str:
    """What gRPC is to call for `HOST:PORT`, where no name is looked up and no socket file opened.

    `named_from`: where who names it is. Nobody has networks called that are nearer to this machine than
    it is itself; None, where that is not known, is far away.

    Raises:
        AddressError: it is a name, or an address that no peer has, or one that is too near.
    """
    try:
        host, port = parse_address(address)
        ip = ipaddress.ip_address(host)
    except (UsageError, ValueError) as error:
        raise AddressError from error
    inner = _unmapped(ip)
    is_none = inner.is_multicast or inner.is_unspecified or inner.is_link_local
    nearest = _nearness(named_from) if named_from is not None else 0
    if is_none or port < _FIRST_PORT or _nearness(inner) > nearest:
        raise AddressError
    return f"ipv{ip.version}:{format_address(host, port)}"


@dataclass
class ReachLimit:
    """Who has had so many addresses called without a peer being there has no more called for a while."""

    _reached: OrderedDict[Target, None] = field(default_factory=OrderedDict)
    # what each member has had called since when, oldest first, and nobody has shown to be there
    _unproven: defaultdict[str, dict[Target, float]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def call(self, caller: str, target: Target, now: float) -> None:
        """Counts a call for `caller`.

        Raises:
            AddressError: it has had too many called in vain.
        """
        if target in self._reached:
            return
        for one, called in list(self._unproven.items()):
            for old in [t for t, at in called.items() if at <= now - FORGOTTEN_AFTER_S]:
                del called[old]
            if not called:
                del self._unproven[one]
        unproven = self._unproven[caller]
        if target not in unproven and len(unproven) >= MAX_UNPROVEN:
            raise AddressError
        unproven.setdefault(target, now)

    def reached(self, target: Target) -> None:
        """The peer is there. If it is not later on, that tells nobody anything new."""
        self._reached[target] = None
        self._reached.move_to_end(target)
        if len(self._reached) > _MAX_REACHED:
            self._reached.popitem(last=False)
        for called in self._unproven.values():
            called.pop(target, None)
