"""Screens what a torrent names before libtorrent sees it; names of hosts are looked up first.

libtorrent calls what it is given, and follows it: so what it is given is judged here. For what changes
after that (a name that leads elsewhere later, a mirror that points on) its own filter of addresses holds;
see `stranger_filter` in `session_settings.py`.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import libtorrent as lt

from baremetalrt.core.tasks import Tasks
from baremetalrt.swarm.callees import LOCAL_REFUSAL, MAX_URLS, Callees, Use, Verdict

_log = logging.getLogger("baremetalrt.swarm")
_LOOKUP_S: Final = 30.0
# Names that are looked up later, with what they are to be used for.
Waiting = Sequence[tuple[Use, Verdict]]


class UrlScreen:
    """Of one session. Lookups are background work: most trackers of old links are long gone."""

    def __init__(self, local_hosts: Iterable[str]) -> None:
        self._local_hosts = tuple(local_hosts)
        self._tasks = Tasks()
        self._told: set[str] = set()

    def screen(
        self,
        params: lt.add_torrent_params,
        *,
        own_urls: Iterable[str] = (),
        peers: Iterable[str] = (),
    ) -> Waiting:
        """Leaves in `params` what may be called at once; `peers` are those that a link names.

        `own_urls` are the user's own, who knows where they lead.
        """
        callees, own = Callees.of_this_machine(self._local_hosts), set(own_urls)
        waiting: list[tuple[Use, Verdict]] = []

        def kept(urls: Iterable[str], use: Use) -> list[str]:
            at_once = []
            for url in list(dict.fromkeys(urls))[:MAX_URLS]:
                verdict = Verdict(url) if url in own else callees.judge(url, use)
                if verdict.refusal is not None:
                    self._tell(verdict, verdict.refusal)
                elif verdict.look_up is not None:
                    waiting.append((use, verdict))
                else:
                    at_once.append(url)
            return at_once

        params.trackers = kept(params.trackers, "tracker")
        params.tracker_tiers = []
        params.url_seeds = kept(params.url_seeds, "mirror")
        # Of a kind that hardly anybody offers.
        params.http_seeds = []
        params.dht_nodes = [node for node in params.dht_nodes if callees.is_public(node[0])]
        params.peers = [*params.peers, *callees.public_endpoints(peers)]
        return waiting

    def add_later(self, handle: lt.torrent_handle, waiting: Waiting) -> None:
        """Gives a torrent what was looked up meanwhile and may be called."""
        hosts = dict.fromkeys(v.look_up for _, v in waiting if v.look_up is not None)
        for host in hosts:
            of_host = [(use, v) for use, v in waiting if v.look_up == host]
            self._tasks.start("looking up a host", self._look_up(handle, host, of_host))

    async def _look_up(self, handle: lt.torrent_handle, host: str, waiting: Waiting) -> None:
        try:
            async with asyncio.timeout(_LOOKUP_S):
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, None, type=socket.SOCK_STREAM
                )
        except (OSError, UnicodeError, TimeoutError) as error:
            _log.debug("no address for %s: %s", host, error)
            return
        callees = Callees.of_this_machine(self._local_hosts)
        # One that is public beside one that is not would be a way around.
        if not all(callees.is_public(str(address[0])) for *_, address in found):
            for _, verdict in waiting:
                self._tell(verdict, LOCAL_REFUSAL)
            return
        for use, verdict in waiting:
            if handle.is_valid():
                add_url(handle, use, verdict.url)

    def _tell(self, verdict: Verdict, why: str) -> None:
        if verdict.url not in self._told and len(self._told) < MAX_URLS:
            self._told.add(verdict.url)
            _log.warning("%s is not asked: %s", ascii(verdict.url[:200])[1:-1], why)

    async def close(self) -> None:
        await self._tasks.close()


def add_url(handle: lt.torrent_handle, use: Literal["tracker", "mirror"], url: str) -> None:
    """One more tracker or mirror for a torrent that runs."""
    if use == "tracker":
        entry: Any = {"url": url, "tier": 0}
        handle.add_tracker(entry)
    else:
        handle.add_url_seed(url)
