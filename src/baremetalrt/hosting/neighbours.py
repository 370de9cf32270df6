"""The peers of a private swarm, as this machine sees them: who answers, what they host, how far."""

import asyncio
import logging
import socket
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import Final, Self

from baremetalrt.core.addresses import format_address, parse_address
from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.network_reasons import describe_failure
from baremetalrt.hosting.address_book import AddressBook
from baremetalrt.hosting.neighbour import Neighbour, is_sane
from baremetalrt.hosting.rendezvous import DhtLookup
from baremetalrt.membership.authority import Membership, find_membership, utc_now
from baremetalrt.membership.identity import identity_of
from baremetalrt.membership.renewing import keep_renewed
from baremetalrt.peers.caller import Channels, NoAnswerError
from baremetalrt.peers.discovery import LocalNetwork, find_peers
from baremetalrt.peers.wire import VERSION
from baremetalrt.placement.profiles import LOCAL_LINK, DeviceProfile, Link, Network
from baremetalrt.swarm.config import load_swarm_config

_log = logging.getLogger("baremetalrt.peers")
HERE: Final = "here"
# Of a name with more addresses, the first ones are tried.
_MAX_LITERALS: Final = 4
_DESCRIBE_TIMEOUT_S: Final = 5.0
_DISCOVERY_TIMEOUT_S: Final = 3.0
# Nobody measures it: that of a good home network.
_BYTES_PER_S: Final = 100e6


class Neighbours:
    """Asks the peers at `addresses`, and those that the local network, and beyond it the DHT, name.

    Use as an async context manager.
    """

    def __init__(
        self,
        membership: Membership,
        addresses: Sequence[str] = (),
        network: LocalNetwork | None = None,
        dht: DhtLookup | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.membership = membership
        self.identity = identity_of(membership)
        self.channels = Channels(self.identity)
        self._network = network
        self._dht = dht
        self._clock = clock
        self._book = AddressBook(addresses)
        self._ids: dict[str, str] = {}
        # who was asked last and did not answer, with the reason in words
        self.refusals: dict[str, str] = {}

    async def look(
        self, avoid: frozenset[str] = frozenset(), *, model: str | None = None
    ) -> list[Neighbour]:
        """Who answers now, found or known before; beyond the local network, who hosts `model`."""
        for found in await asyncio.gather(self._look_near(), self._look_on_dht(model)):
            self._book.note(found, self._clock())
        return await self.ask(avoid)

    async def _look_near(self) -> Sequence[str]:
        if self._network is None:
            return []
        try:
            return await find_peers(self._network, timeout_s=_DISCOVERY_TIMEOUT_S)
        except OSError as error:
            # No such interface, or none that can multicast: those who were named remain.
            _log.warning("cannot look around on the local network: %s", describe_failure(error))
            return []

    async def _look_on_dht(self, model: str | None) -> Sequence[str]:
        return await self._dht(model) if self._dht is not None else []

    async def ask(self, avoid: frozenset[str] = frozenset()) -> list[Neighbour]:
        """Who of those already known answers now; `avoid` names peers that are not to be asked."""
        # A peer that does not answer is not waited for twice.
        known = self._book.addresses(self._clock())
        asked = [address for address in known if self._ids.get(address) not in avoid]
        self.refusals.clear()
        answers = await asyncio.gather(*(self._ask(address) for address in asked))
        # One that has several addresses is one peer.
        return list({one.id: one for one in answers if one is not None}.values())

    async def _ask(self, address: str) -> Neighbour | None:
        # Hosts pass rows on to addresses, and look up no names for others.
        try:
            literals = await literal_addresses(address)
        except UsageError as error:
            self._refused(address, error.message)
            return None
        for literal in literals:
            if (found := await self._ask_at(literal, address)) is not None:
                self.refusals.pop(address, None)
                self._book.note((address,), self._clock())
                return found
        return None

    async def _ask_at(self, literal: str, address: str) -> Neighbour | None:
        try:
            about, round_trip_s = await self.channels.describe(
                literal, timeout_s=_DESCRIBE_TIMEOUT_S
            )
        except NoAnswerError as error:
            self._refused(address, f"{address} does not answer: {error}")
            return None
        if about.version != VERSION:
            said = f"version {about.version} of the protocol"
            self._refused(address, f"{address} speaks {said}, not {VERSION}")
            return None
        if not is_sane(about):
            self._refused(address, f"{address} says impossible things of itself")
            return None
        if about.id in self.identity.expelled:
            self._refused(address, f"{address} was put out of the swarm")
            return None
        self._ids[address] = about.id
        if about.renews:
            await self._renew(literal)
        return Neighbour(literal, about, round_trip_s)

    async def _renew(self, creator: str) -> None:
        """Has this member's certificate renewed, if it is time."""
        now = utc_now()
        if self.membership.is_creator or not self.membership.is_due(now):
            return
        try:
            # Another process, or a look before, may have done it.
            member = await asyncio.to_thread(find_membership, self.membership.name)
            if member.is_due(now):
                sent = await self.channels.renew(creator, timeout_s=_DESCRIBE_TIMEOUT_S)
                member = await asyncio.to_thread(
                    keep_renewed, member, sent.certificate, sent.for_torrents, now
                )
                _log.info("renewed the certificates for %s", member.name)
            self.membership = member
        except NoAnswerError as error:
            _log.warning("%s does not renew the certificate: %s", creator, error)
        except BareMetalError as error:
            _log.warning("%s: %s", creator, error.message)

    def _refused(self, address: str, why: str) -> None:
        self.refusals[address] = why
        _log.warning("%s", why)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channels.close()


async def literal_addresses(address: str) -> list[str]:
    """`HOST:PORT` with the numbers that a name stands for.

    Raises:
        UsageError: it is no address, or nobody knows the name.
    """
    host, port = parse_address(address)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"no address for {address}: {describe_failure(error)}", code="peer.unknown"
        ) from error
    hosts = dict.fromkeys(str(where[0]) for *_, where in found)
    return [format_address(one, port) for one in hosts][:_MAX_LITERALS]


def links_between(neighbours: Sequence[Neighbour], own: Sequence[str] = (HERE,)) -> Network:
    """Links from here as measured; those between two others are taken for the same on the whole.

    `own`: the devices of this machine, which are as far from others as it is.
    """
    links = dict.fromkeys(permutations(own, 2), LOCAL_LINK)
    for one in neighbours:
        link = Link(one.round_trip_s / 2, _BYTES_PER_S)
        for device in own:
            links[device, one.id] = links[one.id, device] = link
    latency_s = statistics.median([one.round_trip_s / 2 for one in neighbours] or [0.0])
    return Network(Link(latency_s, _BYTES_PER_S), links)


def profiles_of(neighbours: Iterable[Neighbour]) -> list[DeviceProfile]:
    """Those of the neighbours of which anybody knows how fast they are."""
    return [profile for one in neighbours if (profile := one.profile()) is not None]


def local_network(membership: Membership, listen: str | None = None) -> LocalNetwork | None:
    """Where peers are looked for, by the settings; None where discovery is switched off."""
    config = load_swarm_config()
    if not config.local_discovery:
        return None
    return LocalNetwork(listen or config.listen, membership.fingerprint)
