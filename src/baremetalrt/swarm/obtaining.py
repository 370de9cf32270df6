"""From what a user names (a magnet link, a `.torrent` file, an info-hash, a name) to a torrent."""

import asyncio
import os
from collections.abc import Iterable

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import is_magnet_or_hash, split_choice
from baremetalrt.core.magnet_links import MagnetLink, parse_magnet_link, swarm_hint
from baremetalrt.membership.authority import Membership, find_membership, memberships, swarm_names
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry, Record
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.metainfo import Metainfo, read_metainfo
from baremetalrt.swarm.stored_torrent import StoredTorrent, read_torrent_file


def is_torrent_reference(text: str) -> bool:
    """Whether `text` is a magnet link, a `.torrent` file or an info-hash: what needs no catalogue.

    Behind a file or a hash, a colon and the model that is meant may follow.
    """
    base, _ = _named(text)
    return is_magnet_or_hash(base) or _is_torrent_file(base)


async def obtain(
    client: SwarmClient, reference: str, *, peers: Iterable[str] = (), swarm: str | None = None
) -> tuple[StoredTorrent, list[str]]:
    """The torrent that `reference` names, put into the catalogue if it is new, and who has it.

    The private `swarm` it belongs to need not be named where the torrent, or the link, says it.

    Raises:
        UsageError: nothing is called that, or it is not clear which of its models is meant.
        IntegrityError: what it names is no model's torrent.
    """
    asked = list(peers)
    known = await asyncio.to_thread(_known, reference)
    if known is not None:
        return known, asked
    base, choice = _named(reference)
    if base.lower().endswith(".torrent"):
        metainfo = await asyncio.to_thread(read_torrent_file, base, choice)
    elif is_magnet_or_hash(base):
        link = parse_magnet_link(base)
        if swarm is None and link.swarm is not None:
            swarm = await asyncio.to_thread(_swarm_of, link)
            if swarm is None:
                raise _not_a_member("the torrent of that link")
        membership = await asyncio.to_thread(find_membership, swarm) if swarm else None
        raw, connected = await client.fetch_metainfo(link, peers=asked, swarm=membership)
        wanted = choice or link.file
        metainfo = await asyncio.to_thread(read_metainfo, raw, source=base, choice=wanted)
        asked += connected
    else:
        raise UsageError(
            f"no torrent {reference!r}: neither a magnet link, a .torrent file, an info-hash, "
            "nor a name from `bmrt ls`",
            code="model.not-found",
            parameter="model",
        )
    return await asyncio.to_thread(add_torrent, metainfo, swarm=swarm), asked


def memberships_of(reference: str, swarm: str | None) -> list[Membership]:
    """What a client has to show for a torrent: of the swarm that is named, or that the torrent says.

    Raises:
        UsageError, IntegrityError: nothing is called that, or there is no such swarm here.
    """
    if swarm is None and swarm_names():
        swarm = _known_swarm(reference)
    return [find_membership(swarm)] if swarm else []


def _known_swarm(reference: str) -> str | None:
    known = _known(reference)
    if known is not None:
        return known.entry.record.swarm
    base, choice = _named(reference)
    if is_magnet_or_hash(base):
        return _swarm_of(parse_magnet_link(base))
    if _is_torrent_file(base):
        authority = read_torrent_file(base, choice).authority_pem
        return _swarm_with(authority) if authority else None
    return None


def _swarm_with(authority_pem: bytes) -> str | None:
    """The private swarm of that authority, if this machine belongs to it."""
    hint = swarm_hint(authority_pem)
    return next((m.name for m in memberships() if swarm_hint(m.authority_pem) == hint), None)


def _swarm_of(link: MagnetLink) -> str | None:
    """The private swarm that a link names, if this machine belongs to it."""
    if link.swarm is None:
        return None
    known = (m for m in memberships() if swarm_hint(m.authority_pem) == link.swarm)
    return next((m.name for m in known), None)


def _not_a_member(what: str) -> UsageError:
    return UsageError(
        f"{what} belongs to a private swarm that this machine is not in",
        code="swarm.needed",
        parameter="swarm",
        hint="`bmrt swarm join` with an invitation from one of its members",
    )


def _named(reference: str) -> tuple[str, str | None]:
    """What names a torrent, and the model of it that is meant, if that is said behind a colon."""
    if _is_torrent_file(reference):
        return reference, None
    base, choice = split_choice(reference.strip())
    if is_magnet_or_hash(base) or _is_torrent_file(base):
        return base, choice
    return reference, None


def _is_torrent_file(text: str) -> bool:
    return text.lower().endswith(".torrent") and os.path.isfile(text)


def _known(reference: str) -> StoredTorrent | None:
    """The torrent of the catalogue, by its name or by the info-hash in what is a link or a hash."""
    base, choice = _named(reference)
    entry = None
    if is_magnet_or_hash(base):
        link = parse_magnet_link(base)
        choice = choice or link.file
        found = (catalog.find(infohash) for infohash in link.infohashes)
        entry = next((one for one in found if one is not None), None)
        if entry is not None:
            _require_choice(entry, choice)
    else:
        entry = catalog.find(reference)
    return StoredTorrent.open(entry) if entry else None


def _require_choice(entry: Entry, choice: str | None) -> None:
    """Of a torrent of several models, one is here: raises `UsageError` if another is asked for."""
    if choice is not None and not entry.is_meant(choice):
        raise catalog.other_model(entry, choice)


def add_torrent(metainfo: Metainfo, *, swarm: str | None = None) -> StoredTorrent:
    """Puts a torrent that is to be fetched into the catalogue."""
    if metainfo.authority_pem is not None:
        swarm = swarm or _swarm_with(metainfo.authority_pem)
        if swarm is None:
            raise _not_a_member(metainfo.name)
    record = Record(
        name=metainfo.name,
        infohash_v1=metainfo.infohash_v1,
        infohash_v2=metainfo.infohash_v2,
        num_bytes=metainfo.num_bytes,
        paths=[f"data/{file.name}" for file in metainfo.files],
        swarm=swarm,
        choice=metainfo.choice,
        title=metainfo.title if metainfo.choice else None,
    )
    entry = catalog.add(metainfo.id, metainfo.raw, record)
    if entry.record is record:
        return StoredTorrent(entry, metainfo)
    # One that was there already keeps its own description, which may say more.
    _require_choice(entry, metainfo.choice)
    return StoredTorrent.open(entry)
