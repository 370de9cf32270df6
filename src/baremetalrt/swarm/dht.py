"""What is on the DHT beside torrents: addresses of machines, items that change, and the router's way in.

Source: BEP 5 and 44.
"""

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from typing import Final

import libtorrent as lt

from baremetalrt.core.addresses import format_address
from baremetalrt.swarm.config import SwarmConfig

_LOOKUP_INTERVAL_S: Final = 1.5
# Nodes that have an item answer for themselves; later ones may have a newer one.
_ITEM_SETTLES_S: Final = 1.0


@dataclass(frozen=True)
class MutableItem:
    """What the holder of a key has put on the DHT, checked by libtorrent. `value` is bencoded.

    Strings are as they are: libtorrent's binding for Python puts nothing else.
    """

    number: int
    value: bytes


class Dht:
    """What a session does beside torrents; nothing where the settings switch it off."""

    def __init__(self, session: lt.session, config: SwarmConfig) -> None:
        self._session = session
        self._config = config
        # who waits for what is said of an address
        self._lookups: dict[str, list[asyncio.Queue[list[str]]]] = {}
        self._items: dict[bytes, list[asyncio.Queue[MutableItem]]] = {}
        self._puts: dict[bytes, asyncio.Queue[int]] = {}

    @property
    def is_on(self) -> bool:
        """Whether anybody beyond the local network may be asked."""
        return self._config.dht and not self._config.offline

    def announce(self, address: bytes, port: int) -> None:
        """Says at an address (20 bytes) that this machine answers at a port.

        Nodes forget it within half an hour.
        """
        if self.is_on:
            self._session.dht_announce(lt.sha1_hash(address), port)

    def map_port(self, port: int) -> None:
        """Asks the router to pass a TCP port on, if the settings allow it."""
        if self._config.port_mapping and not self._config.offline:
            self._session.add_port_mapping(lt.portmap_protocol.tcp, port, port)

    async def find(self, address: bytes, *, timeout_s: float) -> list[str]:
        """`HOST:PORT` of those who announced at an address; nothing if nobody is found in time."""
        if not self.is_on:
            return []
        where = lt.sha1_hash(address)
        answers: asyncio.Queue[list[str]] = asyncio.Queue()
        waiting = self._lookups.setdefault(str(where), [])
        waiting.append(answers)
        found: dict[str, None] = {}
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while not found:
                        # Asked again: a session that has just begun knows nobody yet.
                        self._session.dht_get_peers(where)
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(_LOOKUP_INTERVAL_S):
                                # Each node that knows somebody answers for itself.
                                while True:
                                    found |= dict.fromkeys(await answers.get())
        finally:
            waiting.remove(answers)
        return list(found)

    async def find_item(self, key: bytes, *, timeout_s: float) -> MutableItem | None:
        """The newest item under a public key (32 bytes); None if nobody has one in time."""
        if not self.is_on:
            return None
        answers: asyncio.Queue[MutableItem] = asyncio.Queue()
        waiting = self._items.setdefault(key, [])
        waiting.append(answers)
        newest: MutableItem | None = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s) as limit:
                    while True:
                        if newest is None:
                            # A session that has just begun knows nobody yet.
                            self._session.dht_get_mutable_item(key, b"")
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(_LOOKUP_INTERVAL_S):
                                while True:
                                    item = await answers.get()
                                    if newest is None or item.number > newest.number:
                                        newest = item
                                        soon = asyncio.get_running_loop().time() + _ITEM_SETTLES_S
                                        limit.reschedule(min(limit.when() or soon, soon))
        finally:
            waiting.remove(answers)
        return newest

    async def put_item(self, seed: bytes, key: bytes, value: bytes, *, timeout_s: float) -> int:
        """Puts an item under one's own key (`seed`: its 32 private bytes); how many nodes took it.

        Nodes forget it within two hours.
        """
        if not self.is_on:
            return 0
        # libtorrent takes the key as it is computed with: RFC 8032, 5.1.5.
        secret = bytearray(hashlib.sha512(seed).digest())
        secret[0] &= 248
        secret[31] = secret[31] & 63 | 64
        answers = self._puts.setdefault(key, asyncio.Queue())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    self._session.dht_put_mutable_item(bytes(secret), key, value, b"")
                    if num_nodes := await answers.get():
                        return num_nodes
                    await asyncio.sleep(_LOOKUP_INTERVAL_S)
        return 0

    def on_item(self, alert: lt.dht_mutable_item_alert) -> None:
        """What a node has, whoever asked; nothing where it has none."""
        value = alert.item
        if not alert.seq or not value:
            return
        raw = value if isinstance(value, bytes) else lt.bencode(value)
        for answers in self._items.get(bytes(alert.key), ()):
            answers.put_nowait(MutableItem(int(alert.seq), raw))

    def on_put(self, alert: lt.dht_put_alert) -> None:
        """How many nodes have taken an item."""
        if answers := self._puts.get(bytes(alert.public_key)):
            answers.put_nowait(int(alert.num_success))

    def on_reply(self, alert: lt.dht_get_peers_reply_alert) -> None:
        """What a node has said."""
        peers = [format_address(*peer) for peer in alert.peers()]
        for answers in self._lookups.get(str(alert.info_hash), ()):
            answers.put_nowait(peers)
