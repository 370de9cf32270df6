"""From what a user names (a magnet link, a `.torrent` file, an info-hash, a name) to a torrent."""

import asyncio
import os
from collections.abc import Iterable

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import is_magnet_or_hash
from baremetalrt.membership.authority import find_membership
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Record
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.magnets import parse_magnet
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.swarm.stored_torrent import StoredTorrent, read_torrent_file


def is_torrent_reference(text: str) -> bool:
    """Whether `text` is a magnet link, a `.torrent` file or an info-hash: what needs no catalogue."""
    return is_magnet_or_hash(text) or (text.lower().endswith(".torrent") and os.path.isfile(text))


async def obtain(
    client: SwarmClient, reference: str, *, peers: Iterable[str] = (), swarm: str | None = None
) -> tuple[StoredTorrent, list[str]]:
    """The torrent that `reference` names, put into the catalogue if it is new, and who has it.

    Raises:
        UsageError: nothing is called that.
        IntegrityError: what it names is no model's torrent.
    """
    asked = list(peers)
    known = await asyncio.to_thread(_known, reference)
    if known is not None:
        return known, asked
    membership = await asyncio.to_thread(find_membership, swarm) if swarm else None
    if reference.lower().endswith(".torrent"):
        metainfo = await asyncio.to_thread(read_torrent_file, reference)
    elif is_torrent_reference(reference):
        metainfo, connected = await client.fetch_metainfo(reference, peers=asked, swarm=membership)
        asked += connected
    else:
        raise UsageError(
            f"no torrent {reference!r}: neither a magnet link, a .torrent file, an info-hash, "
            "nor a name from `bmrt ls`",
            code="model.not-found",
            parameter="model",
        )
    return await asyncio.to_thread(add_torrent, metainfo, swarm=swarm), asked


def _known(reference: str) -> StoredTorrent | None:
    """The torrent of the catalogue, by its name or by the info-hash in what is a link or a hash."""
    entry = catalog.find(reference)
    if entry is None and is_magnet_or_hash(reference):
        hashes = parse_magnet(reference).info_hashes
        named = [str(infohash) for infohash in (hashes.v2, hashes.v1)]
        found = (catalog.find(infohash) for infohash in named if infohash.strip("0"))
        entry = next((one for one in found if one is not None), None)
    return StoredTorrent.open(entry) if entry else None


def add_torrent(metainfo: Metainfo, *, swarm: str | None = None) -> StoredTorrent:
    """Puts a torrent that is to be fetched into the catalogue."""
    if metainfo.needs_certificate and swarm is None:
        raise UsageError(
            f"{metainfo.name} belongs to a private swarm",
            code="swarm.needed",
            hint="name the swarm with --swarm; `bmrt swarm ls` lists yours",
        )
    record = Record(
        name=metainfo.name,
        infohash_v1=metainfo.infohash_v1,
        infohash_v2=metainfo.infohash_v2,
        num_bytes=metainfo.num_bytes,
        paths=[f"data/{file.name}" for file in metainfo.files],
        swarm=swarm,
    )
    entry = catalog.add(metainfo.id, metainfo.raw, record)
    # One that was there already keeps its own description, which may say more.
    return StoredTorrent(entry, metainfo) if entry.record is record else StoredTorrent.open(entry)
