"""A file of a hub from machines nearby, as the torrent that they offer.

Who offers is believed nothing: only machines of the local network are asked, what comes is compared with
the hash that the hub says, and whoever sends too little in too long a time is left.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import BareMetalError, CapacityError, IntegrityError
from baremetalrt.core.tasks import in_thread
from baremetalrt.core.units import KIB
from baremetalrt.node.events import FoundNearby, LeftNearby, OnEvent
from baremetalrt.node.watching import fetching
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.config import SwarmConfig
from baremetalrt.swarm.fetching import TorrentSource
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.swarm.obtaining import obtain
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.swarm.publishing import HubOrigin
from baremetalrt.swarm.records import Record
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.swarm.torrent import Torrent

# Who offers a file of that SHA-256 and so many bytes on the local network.
Offers = Callable[[str, int], Sequence[TorrentSource]]
# A hub is near enough not to try many.
_MAX_TRIED: Final = 3
# Less than that in that time is no local network: a hub is faster.
_PATIENCE_S: Final = 10.0
_LEAST_BYTES: Final = 256 * KIB
_LOOK_S: Final = 0.25


def nobody(_sha256: str, _num_bytes: int) -> Sequence[TorrentSource]:
    """Offers, where nobody is to be asked."""
    return ()


def fetch_nearby(
    origin: HubOrigin,
    name: str,
    num_bytes: int,
    offers: Offers,
    swarm: SwarmOptions,
    on_event: OnEvent,
) -> StoredTorrent | None:
    """The file of a hub from somebody nearby; None where it does not come from there. Blocks."""
    config = swarm.config()
    if not config.local_discovery:
        return None
    for source in list(offers(origin.sha256, num_bytes))[:_MAX_TRIED]:
        peer = source.peers[0] if source.peers else ""
        on_event(FoundNearby(name, peer))
        try:
            return asyncio.run(_fetch(source, origin, num_bytes, _nearby_only(config), on_event))
        except BareMetalError as error:
            on_event(LeftNearby(peer, error.message))
    return None


def _nearby_only(config: SwarmConfig) -> SwarmConfig:
    """A hash that somebody nearby names is asked of nobody beyond the local network."""
    return replace(config, offline=True)


async def _fetch(
    source: TorrentSource,
    origin: HubOrigin,
    num_bytes: int,
    config: SwarmConfig,
    on_event: OnEvent,
) -> StoredTorrent:
    """Raises `IntegrityError` for what is not that file, and `CapacityError` where it does not come."""
    was_here = await asyncio.to_thread(_is_somebodys, source.reference)
    async with SwarmClient(config) as client:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                stored, peers = await obtain(client, source.reference, peers=source.peers)
        except TimeoutError:
            raise _silent() from None
        try:
            _require_that(stored.metainfo, num_bytes)
            torrent = await client.add(stored, peers=peers)
            if not was_here:
                # Until it is compared it is nobody's model.
                await client.update_record(torrent, partial(_mark, origin))
            await _arrive(client, torrent, on_event)
            await in_thread(_compare, stored.entry.model_paths[0], origin)
            await client.update_record(torrent, origin.note)
            await client.save(torrent)
        except BareMetalError:
            if not was_here:
                await _throw_away(client, stored.entry)
            raise
        return StoredTorrent(torrent.entry, torrent.metainfo)


def _is_somebodys(reference: str) -> bool:
    """Whether somebody here asked for that torrent, and not this only."""
    entry = catalog.find(reference)
    return entry is not None and not entry.record.is_unchecked


def _mark(origin: HubOrigin, record: Record) -> None:
    record.hub_files = [origin.file]


def _require_that(metainfo: Metainfo, num_bytes: int) -> None:
    is_one = len(metainfo.files) == 1 and metainfo.choice is None
    if not is_one or metainfo.num_bytes != num_bytes or metainfo.needs_certificate:
        raise IntegrityError(
            "it offers another file than it says", code="nearby.other", source=metainfo.id
        )


async def _arrive(client: SwarmClient, torrent: Torrent, on_event: OnEvent) -> None:
    """Returns once all of it is verified and on disk; raises `CapacityError` where it stands still."""
    loop = asyncio.get_running_loop()
    finished = asyncio.ensure_future(torrent.finished())
    looked_at, had = loop.time(), 0
    try:
        while not (await asyncio.wait((finished,), timeout=_LOOK_S))[0]:
            await client.refresh()
            on_event(fetching(torrent, None))
            have = torrent.progress().downloaded_bytes
            if have - had >= _LEAST_BYTES:
                looked_at, had = loop.time(), have
            elif loop.time() - looked_at > _PATIENCE_S:
                raise _silent()
        await finished
    finally:
        finished.cancel()
        await asyncio.gather(finished, return_exceptions=True)


def _compare(path: Path, origin: HubOrigin) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != origin.sha256:
        raise IntegrityError(
            "what it sent is not what the hub has, and is thrown away",
            code="nearby.hash",
            source=str(path),
        )


async def _throw_away(client: SwarmClient, entry: Entry) -> None:
    with contextlib.suppress(BareMetalError):
        running = client.find(entry.id)
        if running is not None:
            await client.remove(running)
        if not entry.is_busy:
            await asyncio.to_thread(entry.remove)


def _silent() -> CapacityError:
    return CapacityError("nothing comes from it", code="nearby.silent")
