"""What `bmrt serve` does for lists: publishes one's own, seeds all, and asks for news of the others."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.places import lists_folder
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.stored_torrent import StoredTorrent

_log = logging.getLogger("baremetalrt.index")
# Between two looks at what is published here and followed: two small folders.
LOOK_S: Final = 5.0
# DHT nodes forget an item within two hours.
_PUT_AGAIN_S: Final = 1800.0
_ASK_AGAIN_S: Final = 1800.0
# What nobody answered is tried again sooner.
_TRY_AGAIN_S: Final = 60.0
# Nodes that are gone, of which there are always some, are waited for.
_PUT_S: Final = 90.0
_FETCH_S: Final = 60.0


class ListKeeper:
    """Everything runs on the event loop; `round` is called again and again."""

    def __init__(self, running_client: Callable[[], Awaitable[SwarmClient]]) -> None:
        self._running_client = running_client
        # the torrent of each list by its publisher's key
        self._seeded: dict[str, StoredTorrent] = {}
        # and of the list before: the DHT names it for a while
        self._before: dict[str, StoredTorrent] = {}
        self._is_swept = False
        self._numbers: dict[str, int] = {}
        # when to put each list, or to ask for it, by key
        self._due: dict[str, float] = {}

    async def round(self) -> None:
        """Looks at every list once; what fails with one does not keep the others."""
        if not await asyncio.to_thread(lists_folder().is_dir):
            return
        # Here and not above: most machines have no lists.
        if not self._is_swept:
            from baremetalrt.node.list_torrents import sweep

            await asyncio.to_thread(sweep)
            self._is_swept = True
        from baremetalrt.index.followed import followed_lists
        from baremetalrt.index.published import published_lists

        for published in await asyncio.to_thread(published_lists):
            await self._attempt(published.name, self._publish(published.name))
        for followed in await asyncio.to_thread(followed_lists):
            await self._attempt(followed.alias, self._follow(followed.key))

    async def _attempt(self, name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except BareMetalError as error:
            _log.warning("the list %s: %s", name, error.message)

    async def _publish(self, name: str) -> None:
        from baremetalrt.index.published import find_published
        from baremetalrt.node.published_lists import item_of

        published = await asyncio.to_thread(find_published, name)
        signed = await asyncio.to_thread(published.current, datetime.now(UTC))
        is_new = await self._seed(signed.key, signed.raw)
        if not is_new and time.monotonic() < self._due.get(signed.key, 0.0):
            return
        client = await self._running_client()
        infohash = self._seeded[signed.key].metainfo.infohash_v1
        if not client.dht.is_on or infohash is None:
            return
        key = await asyncio.to_thread(published.key)
        num_nodes = await client.dht.put_item(
            key.private_bytes_raw(),
            bytes.fromhex(signed.key),
            item_of(infohash),
            timeout_s=_PUT_S,
        )
        self._wait(signed.key, _PUT_AGAIN_S if num_nodes else _TRY_AGAIN_S)
        if num_nodes:
            _log.info("the list %s is on the DHT, at %d nodes", name, num_nodes)

    async def _follow(self, key: str) -> None:
        from baremetalrt.index.followed import accept, find_followed
        from baremetalrt.node.list_torrents import fetch_list
        from baremetalrt.node.published_lists import newest_link

        followed = await asyncio.to_thread(find_followed, key)
        if followed is None:
            return
        if (raw := followed.raw) is not None:
            await self._seed(key, raw)
        client = await self._running_client()
        if not client.dht.is_on or time.monotonic() < self._due.get(key, 0.0):
            return
        # Whatever comes of it, the next attempt is not at once.
        self._wait(key, _TRY_AGAIN_S)
        link = await newest_link(client, key)
        if link is None:
            return
        self._wait(key, _ASK_AGAIN_S)
        seeded = self._seeded.get(key)
        if seeded is not None and seeded.metainfo.infohash_v1 == link.rpartition(":")[2]:
            return
        newer = await fetch_list(client, link, (), timeout_s=_FETCH_S)
        now = datetime.now(UTC)
        if await asyncio.to_thread(accept, followed, newer, "the list", now) is not None:
            _log.info("the list %s has news", followed.alias)
            await self._seed(key, newer)

    async def _seed(self, key: str, raw: bytes) -> bool:
        """Seeds a list, and the one before it; whether it is another."""
        from baremetalrt.index.signed import read_signed
        from baremetalrt.node.list_torrents import forget_torrent, torrent_of_list

        signed = await asyncio.to_thread(read_signed, raw, "the list", None)
        if self._numbers.get(key) == signed.number:
            return False
        over = self._before.pop(key, None)
        if (before := self._seeded.get(key)) is not None:
            self._before[key] = before
        torrent = await asyncio.to_thread(torrent_of_list, signed)
        client = await self._running_client()
        await client.add(torrent, fetches=False)
        self._seeded[key], self._numbers[key] = torrent, signed.number
        if over is not None:
            if running := client.find(over.entry.id):
                await client.remove(running)
            await asyncio.to_thread(forget_torrent, over)
        return True

    def _wait(self, key: str, seconds: float) -> None:
        self._due[key] = time.monotonic() + seconds
