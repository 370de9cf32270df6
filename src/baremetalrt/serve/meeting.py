"""Where the peers of a private swarm meet beyond the local network: an address on the BitTorrent DHT.

It follows from the swarm, and from a model where one is meant. Who announces there, and who asks, are
seen by strangers as addresses of machines; what they say to each other is not.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from baremetalrt.swarm.authority import Membership
from baremetalrt.swarm.client import SwarmClient

_ADDRESS_BYTES: Final = 20
_PURPOSE: Final = b"baremetalrt compute"
_LOOKUP_S: Final = 8.0

# Asks who hosts a model, by the id of its content, or "" for any; answers with HOST:PORT.
Beyond = Callable[[str], Awaitable[Sequence[str]]]


def meeting_point(swarm: Membership, model: str = "") -> bytes:
    """The address of a swarm, or of a model in a swarm: 20 bytes."""
    said = _PURPOSE + swarm.fingerprint + model.encode()
    return hashlib.sha256(said).digest()[:_ADDRESS_BYTES]


def beyond(client: SwarmClient, swarm: Membership) -> Beyond:
    """Looks for peers of a swarm on the DHT."""

    async def look(model: str) -> Sequence[str]:
        return await client.dht.find(meeting_point(swarm, model), timeout_s=_LOOKUP_S)

    return look
