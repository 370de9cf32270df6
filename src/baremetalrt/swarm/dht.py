"""Addresses on the DHT that stand for something else than a torrent, and the way in by the router."""

import asyncio
import contextlib
from typing import Final

import libtorrent as lt

from baremetalrt.core.addresses import format_address
from baremetalrt.swarm.config import SwarmConfig

_LOOKUP_INTERVAL_S: Final = 1.5


class Dht:
    """What a session does beside torrents; nothing where the settings switch it off."""

    def __init__(self, session: lt.session, config: SwarmConfig) -> None:
        self._session = session
        self._config = config
        # who waits for what is said of an address
        self._lookups: dict[str, list[asyncio.Queue[list[str]]]] = {}

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

    def on_reply(self, alert: lt.dht_get_peers_reply_alert) -> None:
        """What a node has said."""
        peers = [format_address(*peer) for peer in alert.peers()]
        for answers in self._lookups.get(str(alert.info_hash), ()):
            answers.put_nowait(peers)
