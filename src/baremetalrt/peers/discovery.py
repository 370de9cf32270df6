"""Peers on the local network, announced and found by zeroconf (RFC 6762 and 6763); no server knows them.

What is found is a hint: who answers there is known once TLS has shown it.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import psutil
from zeroconf import DNSQuestionType, InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

_TYPE: Final = "_bmrt._tcp.local."
_SWARM_KEY: Final = "swarm"
# A swarm is announced by the beginning of its fingerprint: enough to tell one from another.
_TAG_DIGITS: Final = 16
_RESOLVE_TIMEOUT_MS: Final = 1000
# Once somebody was found, the others follow within so long: nobody says a thing twice in one second.
_QUIET_S: Final = 1.2
_EVERYWHERE: Final = ("0.0.0.0", "[::]", "::", "")


@dataclass(frozen=True)
class LocalNetwork:
    """Where to announce and to look: the interface of that address, or all for 0.0.0.0.

    `fingerprint`: of the private swarm that is meant, if one is.
    """

    listen: str
    fingerprint: bytes = b""

    @property
    def tag(self) -> str:
        return self.fingerprint.hex()[:_TAG_DIGITS]

    def addresses(self) -> list[str]:
        """IPv4 addresses under which others reach this machine."""
        if self.listen not in _EVERYWHERE:
            return [self.listen]
        found = [
            entry.address
            for entries in psutil.net_if_addrs().values()
            for entry in entries
            if entry.family == socket.AF_INET
        ]
        return [a for a in found if not ipaddress.ip_address(a).is_loopback]

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[AsyncZeroconf]:
        everywhere = self.listen in _EVERYWHERE
        interfaces = InterfaceChoice.All if everywhere else [self.listen]
        joined = AsyncZeroconf(interfaces=interfaces)
        try:
            yield joined
        finally:
            await joined.async_close()


@asynccontextmanager
async def announced(network: LocalNetwork, peer: str, port: int) -> AsyncIterator[None]:
    """Says that the peer of that id answers at `port` of this machine, and takes it back in the end."""
    addresses = network.addresses()
    info = AsyncServiceInfo(
        _TYPE,
        f"{peer}.{_TYPE}",
        port=port,
        properties={_SWARM_KEY: network.tag},
        server=f"{peer}.local.",
        parsed_addresses=addresses,
    )
    async with network.joined() as joined:
        # A name is the hash of a key: nobody else can have it, so there is no need to ask first.
        await joined.async_register_service(info, cooperating_responders=True)
        try:
            yield
        finally:
            await joined.async_unregister_service(info)


async def find_peers(network: LocalNetwork, *, timeout_s: float) -> list[str]:
    """`HOST:PORT` of peers of the swarm that answer within `timeout_s`; sooner once some have."""
    names: asyncio.Queue[str] = asyncio.Queue()

    def on_change(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Added:
            names.put_nowait(name)

    found: dict[str, None] = {}
    async with network.joined() as joined:
        # To all: of several programs on one machine only one gets an answer that is meant for it alone.
        browser = AsyncServiceBrowser(
            joined.zeroconf, _TYPE, handlers=[on_change], question_type=DNSQuestionType.QM
        )
        try:
            async with asyncio.timeout(timeout_s) as limit:
                while True:
                    info = AsyncServiceInfo(_TYPE, await names.get())
                    if not await info.async_request(joined.zeroconf, _RESOLVE_TIMEOUT_MS):
                        continue
                    if info.properties.get(_SWARM_KEY.encode()) == network.tag.encode():
                        found.update(dict.fromkeys(_addresses(info)))
                        quiet = asyncio.get_running_loop().time() + _QUIET_S
                        limit.reschedule(min(limit.when() or quiet, quiet))
        except TimeoutError:
            pass
        finally:
            await browser.async_cancel()
    return list(found)


def _addresses(info: AsyncServiceInfo) -> list[str]:
    return [f"{address}:{info.port}" for address in info.parsed_addresses(IPVersion.V4Only)]
