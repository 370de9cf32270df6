"""Lists of models from member to member: where there is no DHT, and none is wanted."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from baremetalrt.hosting.neighbours import Neighbours, local_network
from baremetalrt.membership.authority import memberships
from baremetalrt.peers.caller import NoAnswerError

_log = logging.getLogger("baremetalrt.peers")
_ASK_S: Final = 10.0


async def lists_of_members(known: Mapping[str, int], via: Sequence[str] = ()) -> list[bytes]:
    """Newer lists than those `known` that members of this machine's swarms have, unchecked.

    `via`: addresses of members, besides those of the local network.
    """
    found: list[bytes] = []
    for membership in await asyncio.to_thread(memberships):
        async with Neighbours(membership, via, local_network(membership)) as neighbours:
            found += await ask_neighbours(neighbours, known)
    return found


async def ask_neighbours(neighbours: Neighbours, known: Mapping[str, int]) -> list[bytes]:
    """The same, of those who answer now; who does not is passed over."""
    found: list[bytes] = []
    for one in await neighbours.look():
        try:
            found += await neighbours.channels.lists(one.address, known, timeout_s=_ASK_S)
        except NoAnswerError as error:
            _log.debug("%s has no lists: %s", one.address, error)
    return found
