"""Models on the local network: who seeds one says so by zeroconf, and is found (RFC 6762 and 6763).

One service of a type of its own for each model. What is found is a hint, see `offer.py`.
"""

import asyncio
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Final, Self

from zeroconf import DNSQuestionType, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from baremetalrt.peers.discovery import LocalNetwork
from baremetalrt.peers.offer import MAX_OFFERS, FoundOffer, Offer, read_properties

_TYPE: Final = "_bmrt-model._tcp.local."
# Of an info-hash, in the name of a service, which has room for 63.
_HASH_CHARS: Final = 40
_RESOLVE_TIMEOUT_MS: Final = 1000
_OTHERS_S: Final = 0.2
# Of all machines together; anybody on the local network can make up more.
_MAX_FOUND: Final = 512


class OfferBoard:
    """Says on the local network what this machine seeds. Use as an async context manager."""

    def __init__(self, network: LocalNetwork) -> None:
        self._network = network
        self._stack = AsyncExitStack()
        self._joined: AsyncZeroconf | None = None
        self._shown: dict[Offer, AsyncServiceInfo] = {}
        # Chance makes the names unique: there is no need to ask first whether somebody has one.
        self._machine = f"bmrt-{secrets.token_hex(8)}"

    async def show(self, offers: Iterable[Offer]) -> None:
        """Shows these, no others, and no more than `MAX_OFFERS`; raises `OSError` without a network."""
        wanted = list(dict.fromkeys(offers))[:MAX_OFFERS]
        if self._joined is None:
            # Who has nothing to offer says nothing on the network.
            if not wanted:
                return
            self._joined = await self._stack.enter_async_context(self._network.joined())
        joined = self._joined
        gone = [offer for offer in self._shown if offer not in wanted]
        # First: what has changed is said anew under the name that it had.
        await _said(joined.async_unregister_service(self._shown.pop(one)) for one in gone)
        new = {offer: self._info(offer) for offer in wanted if offer not in self._shown}
        self._shown |= new
        await _said(
            joined.async_register_service(info, cooperating_responders=True)
            for info in new.values()
        )

    def _info(self, offer: Offer) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            _TYPE,
            f"{offer.torrent[:_HASH_CHARS]}-{self._machine[-8:]}.{_TYPE}",
            port=offer.port,
            properties=offer.properties(),
            server=f"{self._machine}.local.",
            parsed_addresses=self._network.addresses(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Which takes back what was shown.
        await self._stack.aclose()


async def _said(calls: Iterable[Awaitable[Awaitable[object]]]) -> None:
    """Returns when all was said, which takes half a second."""
    for saying in await asyncio.gather(*calls):
        await saying


async def find_offers(
    network: LocalNetwork,
    *,
    timeout_s: float,
    is_wanted: Callable[[Offer], bool] = lambda offer: False,
) -> list[FoundOffer]:
    """What machines of the local network say within `timeout_s` that they seed.

    Sooner once somebody has what `is_wanted`.

    Raises:
        OSError: there is no such network, or none that can multicast.
    """
    found: dict[str, FoundOffer] = {}
    at_home = _is_loopback(network.listen)
    asking: dict[str, asyncio.Task[None]] = {}
    has_found = asyncio.Event()

    async def ask(zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(_TYPE, name)
        if await info.async_request(zeroconf, _RESOLVE_TIMEOUT_MS):
            read = read_properties(
                info.properties, info.port, info.parsed_addresses(), at_home=at_home
            )
            if read is not None:
                found[name] = read
                if is_wanted(read.offer):
                    has_found.set()

    def on_change(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            found.pop(name, None)
        elif state_change is ServiceStateChange.Added and len(asking) < _MAX_FOUND:
            asking.setdefault(name, asyncio.ensure_future(ask(zeroconf, name)))

    async with network.joined() as joined:
        # To all: of several programs on one machine only one gets an answer that is meant for it alone.
        browser = AsyncServiceBrowser(
            joined.zeroconf, _TYPE, handlers=[on_change], question_type=DNSQuestionType.QM
        )
        try:
            async with asyncio.timeout(timeout_s):
                await has_found.wait()
                # Others answer at about the same time.
                await asyncio.sleep(_OTHERS_S)
        except TimeoutError:
            pass
        finally:
            await browser.async_cancel()
            for task in asking.values():
                task.cancel()
            await asyncio.gather(*asking.values(), return_exceptions=True)
    return list(found.values())


def _is_loopback(listen: str) -> bool:
    try:
        return ipaddress.ip_address(listen).is_loopback
    except ValueError:
        return False
