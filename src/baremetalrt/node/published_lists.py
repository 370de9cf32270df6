"""Lists of models between machines: publishing one's own, following those of others."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError
from baremetalrt.core.files import open_regular
from baremetalrt.index import followed as follows
from baremetalrt.index.followed import find_followed, followed_lists
from baremetalrt.index.known import add_name, remove_name
from baremetalrt.index.links import is_list_link, list_link, parse_list_link
from baremetalrt.index.lists import ListedModel
from baremetalrt.index.published import create_list, find_published, published_lists
from baremetalrt.index.signed import MAX_LIST_BYTES, SignedList, read_signed
from baremetalrt.node.list_torrents import fetch_list, infohash_of_list, list_in
from baremetalrt.node.naming import find_torrent
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.swarm.stored_torrent import StoredTorrent

_log = logging.getLogger("baremetalrt.index")
_FIND_S: Final = 20.0
_FETCH_S: Final = 60.0
_INFO_HASH: Final = b"2:ih20:"
_BYTES: Final = 20


@dataclass(frozen=True)
class PublishedAs:
    """A list of one's own, and the link by which others follow it."""

    name: str
    path: Path
    link: str
    signed: SignedList


def create(name: str) -> PublishedAs:
    """A new list, under a new key; raises like `create_list`, and for the name of a followed one."""
    follows.require_free(name.strip().lower())
    return _published(create_list(name, _now()).name)


def published() -> list[PublishedAs]:
    """All lists that this machine publishes; raises `IntegrityError` for one that is damaged."""
    return [_published(one.name) for one in published_lists()]


def _published(name: str) -> PublishedAs:
    one = find_published(name)
    signed = one.current(_now())
    infohash = infohash_of_list(signed)
    return PublishedAs(one.name, one.list_path, list_link(signed.key, one.name, infohash), signed)


def add_to(list_name: str, name: str, source: str, description: str) -> ListedModel:
    """Puts a model on a list that is published; its bytes are named where they are here.

    Raises:
        UsageError: there is no such list; see `add_name`.
    """
    published = find_published(list_name)
    return add_name(name, source, description, to=published, content=_content_of(source))


def remove_from(list_name: str, name: str) -> None:
    """Takes a model off a list that is published; raises like `remove_name`."""
    remove_name(name, of=find_published(list_name))


def _content_of(source: str) -> str | None:
    """What names the bytes of a torrent of this machine."""
    entry = find_torrent(source)
    if entry is None:
        return None
    content = StoredTorrent.open(entry).metainfo.content_id
    return content if entry.record.infohash_v2 else None


def followed() -> list[dict[str, Any]]:
    """The lists that this machine follows, for people and programs."""
    rows = []
    for one in followed_lists():
        row: dict[str, Any] = {"name": one.alias, "key": one.key, "models": None, "error": None}
        try:
            signed = one.read(_now())
        except IntegrityError as error:
            row["error"] = error.message
        else:
            if signed is not None:
                expires = signed.expires_at.isoformat()
                row |= {"models": len(signed.models), "expires_at": expires}
        rows.append(row)
    return rows


# Asks those who may have newer lists than these, by the keys of their publishers.
AskOthers = Callable[[Mapping[str, int]], Awaitable[Iterable[bytes]]]


async def follow(
    text: str, alias: str | None, swarm: SwarmOptions, ask: AskOthers | None = None
) -> tuple[str, SignedList]:
    """Follows a list by its link or its file; returns what it is called here, and the list.

    Members of this machine's swarms are asked first (`ask`).

    Raises:
        UsageError: that is no list; another has its name.
        IntegrityError: it was changed, has expired, or is older than what was here.
        CapacityError: nobody who has it answers; the disk is full.
    """
    if not is_list_link(text):
        raw = await asyncio.to_thread(_read_file, text)
        return await asyncio.to_thread(_take, raw, alias, text)
    key, _ = parse_list_link(text)
    if ask is not None and (newest := _newest(key, await ask({key: 0}))) is not None:
        return await asyncio.to_thread(_take, newest.raw, alias, "the list")
    async with SwarmClient(swarm.config()) as client:
        raw = await find_list(client, text, swarm.peers)
    signed = read_signed(raw, "the list", _now())
    if signed.key != key:
        raise IntegrityError(
            "what came is the list of another publisher", code="index.forged", source=text[:200]
        )
    return await asyncio.to_thread(_take, raw, alias, "the list")


def _newest(key: str, lists: Iterable[bytes]) -> SignedList | None:
    """The newest list of a key among what members sent, whatever else is among it."""
    sound = []
    for raw in lists:
        with contextlib.suppress(IntegrityError):
            signed = read_signed(raw, "a list of a member's", _now())
            if signed.key == key:
                sound.append(signed)
    return max(sound, key=lambda one: one.number, default=None)


def newer_than(known: Mapping[str, int]) -> list[bytes]:
    """Lists of this machine, published or followed, that are newer than those known. Blocks."""
    found: dict[str, SignedList] = {}
    for one in published_lists():
        with contextlib.suppress(IntegrityError, OSError):
            signed = one.current(_now())
            found[signed.key] = signed
    for other in followed_lists():
        with contextlib.suppress(IntegrityError):
            if (read := other.read(_now())) is not None:
                found[read.key] = read
    return [
        found[key].raw
        for key, number in known.items()
        if key in found and found[key].number > number
    ]


async def refresh(ask: AskOthers) -> None:
    """Asks for news of all lists that are followed; what is no news is passed over."""
    known = {one.key: one for one in await asyncio.to_thread(followed_lists)}
    if not known:
        return
    for raw in await ask({key: one.number for key, one in known.items()}):
        try:
            signed = read_signed(raw, "a list of a member's", _now())
            if (one := known.get(signed.key)) is not None:
                await asyncio.to_thread(follows.accept, one, raw, "a list of a member's", _now())
        except IntegrityError as error:
            _log.warning("%s", error.message)


def unfollow(name: str) -> None:
    """Raises `UsageError` where no such list is followed."""
    found = find_followed(name)
    if found is None:
        raise UsageError(
            f"this machine follows no list {name!r}",
            code="index.not-found",
            parameter="name",
            hint="`bmrt index lists` lists them",
        )
    follows.unfollow(found)


def _take(raw: bytes, alias: str | None, where: str) -> tuple[str, SignedList]:
    signed = read_signed(raw, where, _now())
    known = find_followed(signed.key)
    called = follows.follow(signed.key, (alias or signed.name).strip().lower())
    try:
        follows.accept(called, raw, where, _now())
    except (IntegrityError, CapacityError):
        if known is None:
            follows.unfollow(called)
        raise
    return called.alias, signed


async def find_list(client: SwarmClient, link: str, peers: Sequence[str]) -> bytes:
    """The newest list of a key that is to be had: by the DHT, or as the link has it."""
    key, as_it_was = parse_list_link(link)
    newest = await newest_link(client, key)
    if newest is None and as_it_was is None:
        raise CapacityError(
            "nobody on the DHT knows the list",
            code="index.unreachable",
            hint="its publisher's `bmrt serve` has to run; or take the file: `bmrt index follow FILE`",
        )
    return await fetch_list(client, newest or as_it_was or "", peers, timeout_s=_FETCH_S)


async def newest_link(client: SwarmClient, key: str) -> str | None:
    """Which torrent a publisher's list is now, as the DHT says; None where nobody knows."""
    item = await client.dht.find_item(bytes.fromhex(key), timeout_s=_FIND_S)
    infohash = infohash_in(item.value) if item else None
    return f"magnet:?xt=urn:btih:{infohash}" if infohash else None


def infohash_in(value: bytes) -> str | None:
    """The info-hash that an item names (BEP 46): `d2:ih20:…e`, and perhaps more in it."""
    start = value.find(_INFO_HASH) + len(_INFO_HASH)
    found = value[start : start + _BYTES]
    is_one = value.startswith(b"d") and _INFO_HASH in value and len(found) == _BYTES
    return found.hex() if is_one else None


def item_of(infohash: str) -> bytes:
    """What is put on the DHT for a list."""
    return b"d" + _INFO_HASH + bytes.fromhex(infohash) + b"e"


def _read_file(path: str) -> bytes:
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path[:80]} is neither a list nor the link of one: {error.strerror}",
            code="index.link",
            parameter="link",
            hint="a link begins with magnet:?xs=urn:btpk:, a file was made by `bmrt index create`",
        ) from error
    return list_in(Path(path)) if raw.startswith(b"GGUF") else raw


def _now() -> datetime:
    return datetime.now(UTC)
