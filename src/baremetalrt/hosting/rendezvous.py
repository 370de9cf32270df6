"""Where the peers of a private swarm meet beyond the local network: an address on the BitTorrent DHT.

It follows from the swarm, and from a model where one is meant. Who announces there, and who asks, are
seen by strangers as addresses of machines; what they say to each other is not.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from baremetalrt.membership.authority import Membership
from baremetalrt.swarm.client import SwarmClient

_ADDRESS_BYTES: Final = 20
_PURPOSE: Final = b"baremetalrt compute"
_LOOKUP_S: Final = 8.0

# Asks who hosts a model, by the id of its content, or any model at all; answers with HOST:PORT.
DhtLookup = Callable[[str | None], Awaitable[Sequence[str]]]


def rendezvous(swarm: Membership, model: str | None = None) -> bytes:
    """The address of a swarm, or of a model in a swarm: 20 bytes."""
    said = _PURPOSE + swarm.fingerprint + (model or "").encode()
    return hashlib.sha256(said).digest()[:_ADDRESS_BYTES]


def dht_lookup(client: SwarmClient, swarm: Membership) -> DhtLookup:
    """Looks for peers of a swarm on the DHT."""

    async def look(model: str | None) -> Sequence[str]:
        return await client.dht.find(rendezvous(swarm, model), timeout_s=_LOOKUP_S)

    return look
