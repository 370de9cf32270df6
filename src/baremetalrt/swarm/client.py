"""The libtorrent session of this process, driven by the event loop: torrents come, go and report.

libtorrent's own threads move the bytes. It wakes the loop through a socket when it has something to
say, so nothing here polls; and no call here waits for its threads on the loop's own.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

import libtorrent as lt

from baremetalrt.core.addresses import format_address
from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.magnet_links import MagnetLink
from baremetalrt.core.tasks import Tasks, in_thread
from baremetalrt.membership.authority import Membership, utc_now
from baremetalrt.swarm.alert_handlers import alert_handlers
from baremetalrt.swarm.alerts import Alerts, TorrentGoneError, key_of, key_of_params
from baremetalrt.swarm.catalog import Record
from baremetalrt.swarm.config import SwarmConfig
from baremetalrt.swarm.dht import Dht
from baremetalrt.swarm.local_peers import known_peers
from baremetalrt.swarm.magnets import bare_torrent_file, magnet_params
from baremetalrt.swarm.member_certificates import MemberCertificates
from baremetalrt.swarm.session_settings import (
    local_only_filter,
    parse_peer,
    session_settings,
    stranger_filter,
)
from baremetalrt.swarm.sources import called_peers, source_views
from baremetalrt.swarm.stalls import LOOK_S
from baremetalrt.swarm.state_saver import StateSaver
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.swarm.torrent import Torrent
from baremetalrt.swarm.torrent_params import stay_local, torrent_params, verified_pieces
from baremetalrt.swarm.url_screen import UrlScreen, Waiting

_log = logging.getLogger("baremetalrt.swarm")
_FLAGS: Final = lt.torrent_flags
_CLOSE_TIMEOUT_S: Final = 10.0
# How often the files that say who is a member are looked at: four dates.
_RENEWED_S: Final = 5.0


class SwarmClient:
    """Runs torrents. Use as an async context manager, from one event loop."""

    def __init__(
        self,
        config: SwarmConfig,
        *,
        memberships: Sequence[Membership] = (),
    ) -> None:
        self.config = config
        self._certificates = MemberCertificates(memberships)
        self._torrents: dict[str, Torrent] = {}
        self._locks: dict[str, contextlib.ExitStack] = {}
        self._adding: dict[str, asyncio.Lock] = {}
        self._tasks = Tasks()
        self._screen = UrlScreen(config.local_hosts)
        # Where other peers reach this one, and members of private swarms; 0 for nowhere.
        self.listen_port = self.secure_port = 0

    async def __aenter__(self) -> Self:
        self._session: lt.session = await in_thread(self._start_session)
        self.dht = Dht(self._session, self.config)
        self._alerts = Alerts(self._session, alert_handlers(self._of_handle, self.dht))
        self._is_open = True
        self._saver = StateSaver(self._alerts, finds_locally=self.config.local_discovery)
        self._tasks.repeat("looking for stalls", self._end_stalls, lambda: LOOK_S)
        if self._certificates:
            renew = self._renew_certificates
            self._tasks.repeat("looking at certificates", renew, lambda: _RENEWED_S)
        return self

    def _start_session(self) -> lt.session:
        settings: Any = session_settings(self.config, with_certificates=bool(self._certificates))
        session = lt.session(settings)
        offline = self.config.offline
        session.set_ip_filter(local_only_filter() if offline else stranger_filter(self.config))
        _limit_local_peers(session, self.config)
        self.listen_port = int(session.listen_port())
        self.secure_port = int(session.ssl_listen_port())
        return session

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                for torrent in list(self._torrents.values()):
                    await self.remove(torrent)
                await self._saver.finished()
        except TimeoutError:
            _log.warning("the state of some torrents was not saved: libtorrent does not answer")
        finally:
            await self._tasks.close()
            await self._screen.close()
            for stack in self._locks.values():
                stack.close()
            self._is_open = False
            self._alerts.close()
            session = self._session
            del self._session, self.dht
            # Its destructor waits for its threads.
            await asyncio.to_thread(session.pause)
            self._alerts.close_sockets()
            del session, self._alerts

    @property
    def torrents(self) -> tuple[Torrent, ...]:
        return tuple(self._torrents.values())

    # torrents

    async def add(
        self,
        stored: StoredTorrent,
        *,
        peers: Iterable[str] = (),
        fetches: bool = True,
        on_check: Callable[[float], None] = lambda fraction: None,
    ) -> Torrent:
        """Starts a torrent of the catalogue: seeds what is here and, if it `fetches`, gets the rest.

        What was written down is believed if the files are as they were left; otherwise they are hashed
        first (`on_check` hears how far that is).

        Raises:
            UsageError: another process has it, a peer cannot be, or its swarm is not known here.
            IntegrityError: what is kept of it is damaged.
        """
        stack = contextlib.ExitStack()
        await in_thread(stack.enter_context, stored.entry.locked())
        try:
            addresses = await self._resolve(peers)
            handle, have = await self._launch(stored, addresses, on_check)
        except BaseException:
            stack.close()
            raise
        metainfo = stored.metainfo
        # Nothing of what may lie beside the model.
        everything = metainfo.pieces.pieces(metainfo.model_ranges)
        torrent = Torrent(
            handle, metainfo, stored.entry, self, have=have, wanted=everything if fetches else have
        )
        torrent.was_saved = stored.resume is not None
        torrent.num_banned = len(stored.resume.banned_peers) if stored.resume else 0
        known = stored.resume.peers if stored.resume else ()
        torrent.peers |= dict.fromkeys([*addresses, *known])
        self._locks[key_of(handle)] = stack
        await self._begin(torrent)
        return torrent

    async def find_or_add(
        self, stored: StoredTorrent, *, peers: Iterable[str] = (), fetches: bool = True
    ) -> Torrent:
        """The torrent, which may run already or be about to, and asks `peers` too; raises like `add`."""
        async with self._adding.setdefault(stored.entry.id, asyncio.Lock()):
            running = self.find(stored.entry.id)
            if running is None:
                return await self.add(stored, peers=peers, fetches=fetches)
        await self.connect(running, peers)
        return running

    def find(self, id_: str) -> Torrent | None:
        """The torrent of that entry, if it runs."""
        return next((t for t in self.torrents if t.entry.id == id_), None)

    def _of_handle(self, handle: lt.torrent_handle) -> Torrent | None:
        return self._torrents.get(key_of(handle))

    async def connect(self, torrent: Torrent, peers: Iterable[str]) -> None:
        """Asks these peers too; raises `UsageError` for one that cannot be."""
        for address in await self._resolve(peers):
            torrent.handle.connect_peer(address)
            torrent.peers.setdefault(address)

    async def restart(self, torrent: Torrent, *, forgives: bool = False) -> None:
        """Goes on after a failure, once there is room on the disk again.

        What of the last pieces came to be written nobody knows: what is on disk is hashed first. Whoever
        waits for the torrent keeps it. Who was banned may come again if this `forgives`.
        """
        key = key_of(torrent.handle)
        self._torrents.pop(key, None)
        await self._take_out(torrent.handle)
        try:
            stored = StoredTorrent(torrent.entry, torrent.metainfo)
            if forgives:
                stored.forgive()
            handle, have = await self._launch(stored, tuple(torrent.peers), lambda fraction: None)
        except BaseException:
            self._locks.pop(key).close()
            raise
        torrent.relaunched(handle, have)
        await self._begin(torrent)

    async def _end_stalls(self) -> None:
        """Starts those anew that stand still though somebody could send; see `stalls.py`."""
        now_s = time.monotonic()
        for torrent in self.torrents:
            missing = torrent.missing
            if not missing or torrent.failure is not None:
                continue
            sources = await asyncio.to_thread(source_views, torrent.handle, missing)
            if torrent.is_stuck(now_s, sources) and self.find(torrent.entry.id) is torrent:
                _log.warning("%s stands still and is started anew", torrent.metainfo.name)
                await self.save(torrent)
                await self.restart(torrent, forgives=True)

    async def _begin(self, torrent: Torrent) -> None:
        self._torrents[key_of(torrent.handle)] = torrent
        await self.update_record(torrent, lambda record: None)
        torrent.order()
        torrent.handle.resume()

    async def fetch_metainfo(
        self, link: MagnetLink, *, peers: Iterable[str] = (), swarm: Membership | None = None
    ) -> tuple[bytes, list[str]]:
        """Gets from peers what a magnet link leaves out, however long that takes: a `.torrent` file.

        It has the hash that was asked for; what it says is not judged. Returns who was connected, too:
        they may be asked for the rest.

        Raises:
            UsageError: a peer cannot be.
            TorrentGoneError: the client was closed meanwhile.
        """
        addresses = await self._resolve(peers)
        while True:
            changed = self._certificates.change_of(swarm)
            asking = asyncio.create_task(self._ask(link, addresses, swarm))
            waiting = asyncio.create_task(changed.wait())
            try:
                await asyncio.wait((asking, waiting), return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    return await asking
            finally:
                waiting.cancel()
                asking.cancel()
                await asyncio.wait((asking, waiting))
            # Those who stay believe another root now, and so does this member.
            swarm = self._certificates.newest(swarm) if swarm else None

    async def _ask(
        self, link: MagnetLink, addresses: Sequence[tuple[str, int]], swarm: Membership | None
    ) -> tuple[bytes, list[str]]:
        params = magnet_params(link)
        params.peers = [*addresses, *await self._nearby(secure=swarm is not None)]
        params.save_path = "."
        params.flags |= _FLAGS.default_dont_download | _FLAGS.upload_mode
        # Paused until it has a certificate to show.
        params.flags |= _FLAGS.paused
        params.flags &= ~_FLAGS.auto_managed
        root_pem = await self._certificates.believe(params, swarm) if swarm else b""
        handle = await self._added(params, peers=link.peers)
        try:
            if swarm is not None:
                self._certificates.show(handle, swarm, root_pem)
            received = self._alerts.expect(key_of(handle), lt.metadata_received_alert)
            handle.resume()
            await received
            info = await asyncio.to_thread(handle.torrent_file)
            assert info is not None, "libtorrent has said that it has the metadata"
            raw = bare_torrent_file(info.info_section(), link)
            known = [
                format_address(*peer) for peer in await asyncio.to_thread(called_peers, handle)
            ]
        finally:
            await self._drop(handle)
        return raw, known

    async def _renew_certificates(self) -> None:
        """Shows what was renewed; who is under an older root is hung up on.

        The torrents of a swarm that has put this machine out are stopped.
        """
        for swarm in await self._certificates.changed():
            for torrent in self.torrents:
                record = torrent.entry.record
                if torrent.metainfo.needs_certificate and record.swarm == swarm.name:
                    try:
                        await self._show_renewed(torrent, swarm)
                    except BareMetalError as error:
                        _log.error("%s: %s", record.name, error.message)

    async def _show_renewed(self, torrent: Torrent, swarm: Membership) -> None:
        try:
            swarm.require_valid(utc_now())
        except UsageError:
            await self.remove(torrent)
            raise
        if not await self._certificates.show_again(torrent.handle, swarm):
            await self.save(torrent)
            await self.restart(torrent)

    async def remove(self, torrent: Torrent) -> None:
        """Stops a torrent and writes down where it stood."""
        key = key_of(torrent.handle)
        torrent.handle.pause()
        try:
            await self.save(torrent)
        finally:
            self._torrents.pop(key, None)
            torrent.on_removed()
            self._saver.forget(torrent)
            await self._take_out(torrent.handle)
            self._locks.pop(key).close()

    async def save(self, torrent: Torrent) -> None:
        """Writes down what is here, and that it is; see `StateSaver.save`."""
        await self._saver.save(torrent)

    async def update_record(self, torrent: Torrent, change: Callable[[Record], None]) -> None:
        """Changes what is remembered of a torrent; raises `CapacityError` where it cannot be written."""
        await self._saver.update_record(torrent, change)

    async def refresh(self) -> None:
        """Asks libtorrent how its torrents are doing; then `Torrent.progress` tells."""
        updated = self._alerts.expect("", lt.state_update_alert)
        self._session.post_torrent_updates(lt.torrent_handle.query_accurate_download_counters)
        await updated

    # what torrents tell

    def note_progress(self, torrent: Torrent) -> None:
        if key_of(torrent.handle) in self._torrents:
            self._saver.note_progress(torrent)

    def note_peer(self, torrent: Torrent, endpoint: tuple[str, int]) -> None:
        """Remembers those whom we called: who called us did so from a port where nobody listens."""

        async def look() -> None:
            if torrent.handle.is_valid():
                called = await asyncio.to_thread(called_peers, torrent.handle)
                if endpoint in called:
                    torrent.remember_peer(endpoint)

        self._tasks.start("looking at a peer", look())

    # starting and ending a torrent

    async def _launch(
        self,
        stored: StoredTorrent,
        addresses: Sequence[tuple[str, int]],
        on_check: Callable[[float], None],
    ) -> tuple[lt.torrent_handle, set[int]]:
        """A torrent in libtorrent, still paused, and the pieces that it has."""
        have = await asyncio.to_thread(verified_pieces, stored, on_check)
        swarm = self._certificates.membership_for(stored.metainfo, stored.entry.record)
        params = torrent_params(stored, have)
        # Peers named here are connected at once, those named later at the next tick.
        is_open = not stored.metainfo.is_private
        nearby = await self._nearby(secure=swarm is not None) if is_open else []
        params.peers = [*addresses, *params.peers, *nearby]
        root_pem = await self._certificates.believe(params, swarm) if swarm else b""
        handle = await self._added(params, own_urls=stored.entry.record.own_urls)
        try:
            if swarm is not None:
                self._certificates.show(handle, swarm, root_pem)
            return handle, await self._checked(handle) if have is None else have
        except BaseException:
            # Or else nobody could start it again.
            await self._drop(handle)
            raise

    async def _nearby(self, *, secure: bool) -> list[tuple[str, int]]:
        """Local peers of other torrents, who may have this one."""
        if not self.config.local_discovery:
            return []
        return await asyncio.to_thread(known_peers, secure=secure)

    async def _added(
        self,
        params: lt.add_torrent_params,
        *,
        own_urls: Iterable[str] = (),
        peers: Iterable[str] = (),
    ) -> lt.torrent_handle:
        """The torrent in libtorrent; of what it names, what may be called. `peers` are a link's."""
        if self.config.offline:
            stay_local(params)
            waiting: Waiting = ()
        else:
            params.flags &= ~_FLAGS.apply_ip_filter
            waiting = self._screen.screen(params, own_urls=own_urls, peers=peers)
        added = self._alerts.expect(key_of_params(params), lt.add_torrent_alert)
        self._session.async_add_torrent(params)
        handle: lt.torrent_handle = await added
        self._screen.add_later(handle, waiting)
        return handle

    async def _drop(self, handle: lt.torrent_handle) -> None:
        """Takes a torrent out that nobody knows yet; once this is over, the same one can be added."""
        if self._is_open:
            with contextlib.suppress(TorrentGoneError):
                await self._take_out(handle)

    async def _take_out(self, handle: lt.torrent_handle) -> None:
        self._certificates.forget(handle)
        removed = self._alerts.expect(key_of(handle), lt.torrent_removed_alert)
        self._session.remove_torrent(handle)
        await removed

    async def _checked(self, handle: lt.torrent_handle) -> set[int]:
        """Lets libtorrent hash what is on disk."""
        checking = self._alerts.expect(key_of(handle), lt.torrent_checked_alert)
        handle.force_recheck()
        handle.resume()
        await checking
        status = await asyncio.to_thread(handle.status, lt.torrent_handle.query_pieces)
        return {i for i, has in enumerate(status.pieces) if has}

    async def _resolve(self, peers: Iterable[str]) -> list[tuple[str, int]]:
        """The addresses of peers, whose names may have to be looked up."""
        resolved: dict[tuple[str, int], None] = {}
        for peer in peers:
            host, port = parse_peer(peer, offline=self.config.offline)
            try:
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, port, type=socket.SOCK_STREAM
                )
            except OSError as error:
                raise UsageError(
                    f"no address for the peer {host!r}", code="peer.unknown"
                ) from error
            resolved |= dict.fromkeys((str(address[0]), port) for *_, address in found)
        return list(resolved)

    async def set_limits(self, config: SwarmConfig) -> None:
        """Takes over the rate limits of changed settings."""
        self.config = config
        limits: Any = {
            "download_rate_limit": config.download_limit,
            "upload_rate_limit": config.upload_limit,
        }
        self._session.apply_settings(limits)
        await asyncio.to_thread(_limit_local_peers, self._session, config)


def _limit_local_peers(session: lt.session, config: SwarmConfig) -> None:
    """libtorrent leaves peers on the LAN out of its limits; who set one means it. Blocks."""
    local = session.local_peer_class_id
    limits = session.get_peer_class(local)
    limits["download_limit"] = config.download_limit
    limits["upload_limit"] = config.upload_limit
    session.set_peer_class(local, limits)
