"""The peers of a private swarm, as this machine sees them: who answers, what they host, how far."""

import asyncio
import logging
import socket
import statistics
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Self

from baremetalrt.core.addresses import format_address, parse_address
from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.hosting.rendezvous import DhtLookup
from baremetalrt.membership.authority import Membership, find_membership, utc_now
from baremetalrt.membership.identity import identity_of
from baremetalrt.membership.renewing import keep_renewed
from baremetalrt.peers.caller import Channels, NoAnswerError
from baremetalrt.peers.compute_pb2 import Description, HostedSpan
from baremetalrt.peers.discovery import LocalNetwork, find_peers
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.peers.wire import VERSION
from baremetalrt.placement.profiles import DeviceProfile, Link, Network
from baremetalrt.swarm.config import load_swarm_config

_log = logging.getLogger("baremetalrt.peers")
HERE: Final = "here"
# More than any model has; what peers say bounds what is built of it.
_MAX_BLOCKS: Final = 4096
_MAX_NAME: Final = 128
_MAX_SPANS: Final = 1024
_ID_DIGITS: Final = 40
# Of a name with more addresses, the first ones are tried.
_MAX_LITERALS: Final = 4
_DESCRIBE_TIMEOUT_S: Final = 5.0
_DISCOVERY_TIMEOUT_S: Final = 3.0
# Nobody measures it: that of a good home network.
_BYTES_PER_S: Final = 100e6


@dataclass(frozen=True)
class Neighbour:
    """A peer that answered. `about` is what it says of itself."""

    address: str
    about: Description
    round_trip_s: float

    @property
    def id(self) -> str:
        return self.about.id

    @property
    def host(self) -> str:
        """Its address without the port."""
        return self.address.rpartition(":")[0]

    @property
    def spans(self) -> list[HostedSpan]:
        """What it hosts, but for what cannot be."""
        return [span for span in self.about.spans if _is_sound(span)]

    def spans_of(self, model: str) -> list[RemoteSpan]:
        """What it hosts of a model."""
        return [
            RemoteSpan(
                self.id,
                self.address,
                model,
                BlockSpan(s.start, s.end),
                s.num_blocks,
                token_s=s.step_s or None,
            )
            for s in self.spans
            if s.model == model
        ]

    def report(self) -> dict[str, Any]:
        """What is known of it, for people and programs; names from elsewhere made harmless."""
        about = self.about
        return {
            "id": self.id,
            "address": self.address,
            "round_trip_s": round(self.round_trip_s, 6),
            "bytes_per_s": round(1 / self.byte_s) if self.byte_s else None,
            "budget_bytes": about.budget_bytes,
            "release": _printable(about.release),
            "library": _printable(about.library),
            "spans": [
                {
                    "model": _printable(s.model),
                    "name": _printable(s.name),
                    "start": s.start,
                    "end": s.end,
                    "num_blocks": s.num_blocks,
                    "num_bytes": s.num_bytes,
                    "num_cells": s.num_cells,
                    "context": s.context,
                    "num_texts": s.num_texts,
                    "step_s": s.step_s,
                }
                for s in self.spans
            ],
        }

    @property
    def byte_s(self) -> float | None:
        """Seconds for each byte that a step reads; None where the peer has not measured it."""
        return self.about.byte_s or None

    def profile(self) -> DeviceProfile | None:
        """What placement knows of it; None where nobody knows how fast it is."""
        if self.byte_s is None:
            return None
        return DeviceProfile(id=self.id, budget_bytes=self.about.budget_bytes, byte_s=self.byte_s)


def _is_sane(about: Description) -> bool:
    is_id = len(about.id) == _ID_DIGITS and set(about.id) <= set(string.hexdigits)
    return is_id and 0 <= about.byte_s < inf and len(about.spans) <= _MAX_SPANS


def _is_sound(span: HostedSpan) -> bool:
    """Whether what a peer says of a span can be."""
    return span.start < span.end <= span.num_blocks <= _MAX_BLOCKS and 0 <= span.step_s < inf


def _printable(text: str) -> str:
    """Without what a terminal would obey, and not endless."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_NAME])


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
    ) -> None:
        self.membership = membership
        self.identity = identity_of(membership)
        self.channels = Channels(self.identity)
        self._network = network
        self._dht = dht
        # In the order in which they became known.
        self._addresses = dict.fromkeys(addresses)
        self._ids: dict[str, str] = {}

    async def look(
        self, avoid: frozenset[str] = frozenset(), *, model: str | None = None
    ) -> list[Neighbour]:
        """Who answers now, found or known before; beyond the local network, who hosts `model`."""
        for found in await asyncio.gather(self._look_near(), self._look_on_dht(model)):
            self._addresses.update(dict.fromkeys(found))
        return await self.ask(avoid)

    async def _look_near(self) -> Sequence[str]:
        if self._network is None:
            return []
        try:
            return await find_peers(self._network, timeout_s=_DISCOVERY_TIMEOUT_S)
        except OSError as error:
            # No such interface, or none that can multicast: those who were named remain.
            _log.warning("cannot look around on the local network: %s", error)
            return []

    async def _look_on_dht(self, model: str | None) -> Sequence[str]:
        return await self._dht(model) if self._dht is not None else []

    async def ask(self, avoid: frozenset[str] = frozenset()) -> list[Neighbour]:
        """Who of those already known answers now; `avoid` names peers that are not to be asked."""
        # A peer that does not answer is not waited for twice.
        asked = [address for address in self._addresses if self._ids.get(address) not in avoid]
        answers = await asyncio.gather(*(self._ask(address) for address in asked))
        # One that has several addresses is one peer.
        return list({one.id: one for one in answers if one is not None}.values())

    async def _ask(self, address: str) -> Neighbour | None:
        # Hosts pass rows on to addresses, and look up no names for others.
        for literal in await literal_addresses(address):
            if (found := await self._ask_at(literal, address)) is not None:
                return found
        return None

    async def _ask_at(self, literal: str, address: str) -> Neighbour | None:
        try:
            about, round_trip_s = await self.channels.describe(
                literal, timeout_s=_DESCRIBE_TIMEOUT_S
            )
        except NoAnswerError as error:
            _log.warning("%s does not answer: %s", address, error)
            return None
        if about.version != VERSION:
            _log.warning("%s speaks version %d of the protocol", address, about.version)
            return None
        if not _is_sane(about):
            _log.warning("%s says impossible things of itself", address)
            return None
        if about.id in self.identity.expelled:
            _log.warning("%s was put out of the swarm", address)
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channels.close()


async def literal_addresses(address: str) -> list[str]:
    """`HOST:PORT` with the numbers that a name stands for; none where nobody knows the name."""
    try:
        host, port = parse_address(address)
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (UsageError, OSError) as error:
        _log.warning("%s is not known: %s", address, error)
        return []
    hosts = dict.fromkeys(str(where[0]) for *_, where in found)
    return [format_address(one, port) for one in hosts][:_MAX_LITERALS]


def links_between(neighbours: Sequence[Neighbour]) -> Network:
    """Links from here as measured; those between two others are taken for the same on the whole."""
    links = {}
    for one in neighbours:
        link = Link(one.round_trip_s / 2, _BYTES_PER_S)
        links[HERE, one.id] = links[one.id, HERE] = link
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
