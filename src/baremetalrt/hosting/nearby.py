"""What others nearby offer: machines of the local network, and peers of this machine's private swarms."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from baremetalrt.core.ids import folded
from baremetalrt.core.network_reasons import describe_failure
from baremetalrt.hosting.neighbours import Neighbours, local_network
from baremetalrt.membership.authority import Membership, memberships
from baremetalrt.node.naming import find_torrent
from baremetalrt.peers.discovery import LocalNetwork
from baremetalrt.peers.offer import FoundOffer, Offer
from baremetalrt.peers.offers import find_offers
from baremetalrt.swarm.config import SwarmConfig
from baremetalrt.swarm.fetching import TorrentSource
from baremetalrt.swarm.options import SwarmOptions

_log = logging.getLogger("baremetalrt.peers")
_LOOK_S: Final = 1.5
# A model that has to come from far away instead is worth a moment more.
_LOOK_FOR_S: Final = 2.5
_MAX_HINTED: Final = 3
IsWanted = Callable[[Offer], bool]


@dataclass(frozen=True)
class NearbyModel:
    """A model as somebody else names it. `swarm`: the private one to whose members it is seeded."""

    name: str
    num_bytes: int
    torrent: str
    peers: tuple[str, ...]
    swarm: str | None
    is_here: bool

    def report(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "bytes": self.num_bytes,
            "infohash": self.torrent,
            "peers": list(self.peers),
            "swarm": self.swarm,
            "here": self.is_here,
        }

    def pulled_by(self) -> str:
        """The command that fetches it."""
        swarm = f" --swarm {self.swarm}" if self.swarm else ""
        return f"bmrt pull {self.torrent}{swarm}" + "".join(f" --peer {p}" for p in self.peers[:1])


def models_nearby(words: Sequence[str] = ()) -> list[NearbyModel]:
    """What is offered nearby now, of which all words are said. Blocks for a moment."""
    return asyncio.run(_models_nearby(words))


def hint_nearby(name: str) -> str | None:
    """What somebody nearby offers under a name that nothing here has; it is never taken unasked."""
    wanted = folded(name.strip())
    found = [one for one in models_nearby() if folded(one.name) == wanted]
    if not found:
        return None
    commands = " or ".join(f"`{one.pulled_by()}`" for one in found[:_MAX_HINTED])
    return f"a machine nearby offers something of that name: {commands} fetches it"


def hub_offers(sha256: str, num_bytes: int) -> list[TorrentSource]:
    """Who on the local network says that it seeds a file of that hash and size. Blocks for a moment."""

    def is_that(offer: Offer) -> bool:
        return (offer.sha256, offer.num_bytes) == (sha256, num_bytes)

    config = SwarmOptions().config()
    found = asyncio.run(_on_network(config, is_that))
    peers: dict[str, list[str]] = {}
    for one in found:
        if is_that(one.offer):
            peers.setdefault(one.offer.torrent, []).extend(one.peers)
    # What most say goes first.
    ordered = sorted(peers.items(), key=lambda item: -len(item[1]))
    return [TorrentSource(torrent, tuple(dict.fromkeys(at))) for torrent, at in ordered]


async def _on_network(config: SwarmConfig, is_wanted: IsWanted | None = None) -> list[FoundOffer]:
    if not config.local_discovery:
        return []
    network = LocalNetwork(config.listen)
    try:
        if is_wanted is None:
            return await find_offers(network, timeout_s=_LOOK_S)
        return await find_offers(network, timeout_s=_LOOK_FOR_S, is_wanted=is_wanted)
    except OSError as error:
        _log.warning("cannot look around on the local network: %s", describe_failure(error))
        return []


async def _models_nearby(words: Sequence[str]) -> list[NearbyModel]:
    config = SwarmOptions().config()
    known = await asyncio.to_thread(memberships)
    public, *of_members = await asyncio.gather(
        _on_network(config), *(_of_members(one) for one in known)
    )
    said: list[tuple[FoundOffer, str | None]] = [(one, None) for one in public]
    for membership, found in zip(known, of_members, strict=True):
        said += [(one, membership.name if one.offer.is_private else None) for one in found]
    return await asyncio.to_thread(_merged, said, words)


async def _of_members(membership: Membership) -> list[FoundOffer]:
    async with Neighbours(membership, network=local_network(membership)) as neighbours:
        return [offer for one in await neighbours.look() for offer in one.offers]


def _merged(
    said: Sequence[tuple[FoundOffer, str | None]], words: Sequence[str]
) -> list[NearbyModel]:
    """A row for each name of each torrent, with all who say so."""
    peers: dict[tuple[str, int, str, str | None], dict[str, None]] = {}
    for found, swarm in said:
        offer = found.offer
        if all(word.lower() in offer.name.lower() for word in words):
            key = (offer.name, offer.num_bytes, offer.torrent, swarm)
            peers.setdefault(key, {}).update(dict.fromkeys(found.peers))
    return [
        NearbyModel(*key[:3], tuple(at), key[3], find_torrent(key[2]) is not None)
        for key, at in sorted(peers.items(), key=lambda item: folded(item[0][0]))
    ]
