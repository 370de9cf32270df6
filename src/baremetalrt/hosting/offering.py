"""What this machine offers to others: torrents that are whole here, told of on the local network."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from baremetalrt.core.network_reasons import describe_failure
from baremetalrt.core.tasks import Tasks
from baremetalrt.peers.discovery import LocalNetwork
from baremetalrt.peers.offer import MAX_OFFERS, Offer, offer_of
from baremetalrt.peers.offers import OfferBoard
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.config import SwarmConfig
from baremetalrt.swarm.torrent import Torrent

_log = logging.getLogger("baremetalrt.swarm")
# How often it is looked whether something was added or removed.
_LOOK_S: Final = 2.0


@asynccontextmanager
async def offered(
    client: Callable[[], SwarmClient | None], config: SwarmConfig
) -> AsyncIterator[None]:
    """Tells the local network until the block ends what `client` seeds to everybody.

    Nothing is told where `local_discovery` is off.
    """
    if not config.local_discovery:
        yield
        return
    network = LocalNetwork(config.listen)
    is_told = False

    async def look() -> None:
        nonlocal is_told
        try:
            await board.show(offers_of(client()))
        except OSError as error:
            # No such interface, or none that can multicast; it may come.
            if not is_told:
                _log.warning("no models are offered nearby: %s", describe_failure(error))
            is_told = True

    async with OfferBoard(network) as board, Tasks() as tasks:
        tasks.repeat("offering models nearby", look, lambda: _LOOK_S)
        yield


def offers_of(client: SwarmClient | None, swarm: str | None = None) -> list[Offer]:
    """What can be had from this machine: by everybody, and by members of that private swarm."""
    if client is None:
        return []
    found = (_offer(client, torrent, swarm) for torrent in client.torrents)
    return [one for one in found if one is not None][:MAX_OFFERS]


def _offer(client: SwarmClient, torrent: Torrent, swarm: str | None) -> Offer | None:
    metainfo, record = torrent.metainfo, torrent.entry.record
    is_secret = metainfo.needs_certificate
    if is_secret and (swarm is None or record.swarm != swarm):
        return None
    # Peers come from trackers alone; or the hash does not say which of several models is meant.
    if metainfo.is_private or metainfo.choice is not None:
        return None
    if not torrent.is_complete or record.is_unchecked:
        return None
    return offer_of(
        record.name,
        metainfo.infohash_v2 or metainfo.infohash_v1 or "",
        metainfo.num_bytes,
        client.secure_port if is_secret else client.listen_port,
        sha256=record.sha256,
        is_private=is_secret,
    )
