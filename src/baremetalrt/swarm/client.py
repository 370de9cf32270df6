"""The libtorrent session of this process, driven by the event loop: torrents come, go and report.

libtorrent's own threads move the bytes. It wakes the loop through a socket when it has something to
say, so nothing here polls.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

import libtorrent as lt

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError, one_line
from baremetalrt.core.spans import ByteRange
from baremetalrt.swarm.authority import Membership, utc_now
from baremetalrt.swarm.catalog import Entry, Record
from baremetalrt.swarm.checking import signatures
from baremetalrt.swarm.config import SwarmConfig
from baremetalrt.swarm.dht import Dht, join_address
from baremetalrt.swarm.files import disk_errors, write_durably
from baremetalrt.swarm.launching import stay_local, torrent_params, verified_pieces
from baremetalrt.swarm.magnets import bare_torrent_file, parse_magnet
from baremetalrt.swarm.metainfo import Metainfo, read_metainfo
from baremetalrt.swarm.refusals import explain_refusal
from baremetalrt.swarm.resume import SavedState, read_resume_data, read_state
from baremetalrt.swarm.session_settings import local_only_filter, parse_peer, session_settings
from baremetalrt.swarm.torrent import Torrent, disk_failure

_log = logging.getLogger("baremetalrt.swarm")
_FLAGS: Final = lt.torrent_flags
# How often what was fetched is written down while it arrives. A kill loses nothing: pieces that were
# not written down are found on disk and hashed; this only keeps that short.
_SAVE_INTERVAL_S: Final = 5.0
_FIRST_SAVE_S: Final = 0.5
_SETTLE_S: Final = 2.0
_CLOSE_TIMEOUT_S: Final = 10.0
_MAX_REFUSALS: Final = 1000


class SwarmClient:
    """Runs torrents. Use as an async context manager, from one event loop."""

    def __init__(
        self,
        config: SwarmConfig,
        *,
        memberships: Sequence[Membership] = (),
    ) -> None:
        self.config = config
        self._memberships = {m.name: m for m in memberships}
        self._torrents: dict[str, Torrent] = {}
        self._locks: dict[str, contextlib.ExitStack] = {}
        self._adding: dict[str, asyncio.Lock] = {}
        self._awaited: dict[tuple[str, type], list[asyncio.Future[Any]]] = {}
        self._saves: dict[str, asyncio.TimerHandle] = {}
        self._saving: set[asyncio.Task[None]] = set()
        # what is remembered is changed by one at a time
        self._writing = asyncio.Lock()
        self._refusals: set[tuple[str, str | None]] = set()

    async def __aenter__(self) -> Self:
        settings: Any = session_settings(self.config, with_certificates=bool(self._memberships))
        self._session: lt.session = lt.session(settings)
        self.dht = Dht(self._session, self.config)
        if self.config.offline:
            self._session.set_ip_filter(local_only_filter())
        self._limit_local_peers()
        self._near, far = socket.socketpair()
        self._near.setblocking(False)
        far.setblocking(False)
        self._far = far
        asyncio.get_running_loop().add_reader(self._near, self._on_readable)
        self._session.set_alert_fd(far.fileno())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                for torrent in list(self._torrents.values()):
                    await self.remove(torrent)
                while self._saving:
                    await asyncio.wait(self._saving)
        except TimeoutError:
            _log.warning("the state of some torrents was not saved: libtorrent does not answer")
        finally:
            for stack in self._locks.values():
                stack.close()
            asyncio.get_running_loop().remove_reader(self._near)
            session = self._session
            del self._session, self.dht
            # Its destructor waits for its threads.
            await asyncio.to_thread(session.pause)
            del session
            self._near.close()
            self._far.close()

    @property
    def listen_port(self) -> int:
        """The port on which other peers reach this one; 0 if none could be opened."""
        return int(self._session.listen_port())

    @property
    def secure_port(self) -> int:
        """The port for private swarms; 0 if there are none."""
        return int(self._session.ssl_listen_port())

    @property
    def torrents(self) -> tuple[Torrent, ...]:
        return tuple(self._torrents.values())

    # torrents

    async def add(
        self,
        entry: Entry,
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
        stack.enter_context(entry.locked())
        try:
            metainfo = read_metainfo(
                entry.metainfo_path.read_bytes(), source=str(entry.metainfo_path)
            )
            addresses = [address for peer in peers for address in self._resolve(peer)]
            handle, have = await self._launch(entry, metainfo, addresses, on_check)
        except BaseException:
            stack.close()
            raise
        # Nothing of what may lie beside the model.
        everything = metainfo.pieces.pieces(
            ByteRange(i, 0, file.part.num_bytes) for i, file in enumerate(metainfo.files)
        )
        torrent = Torrent(
            handle, metainfo, entry, self, have=have, wanted=everything if fetches else have
        )
        resume = read_resume_data(entry)
        torrent.peers |= dict.fromkeys([*addresses, *(resume.peers if resume else ())])
        self._locks[_key(handle)] = stack
        await self._begin(torrent)
        return torrent

    async def find_or_add(
        self, entry: Entry, *, peers: Iterable[str] = (), fetches: bool = True
    ) -> Torrent:
        """The torrent, which may run already or be about to; raises like `add`."""
        async with self._adding.setdefault(entry.id, asyncio.Lock()):
            running = next((t for t in self.torrents if t.entry.id == entry.id), None)
            return running or await self.add(entry, peers=peers, fetches=fetches)

    def connect(self, torrent: Torrent, peers: Iterable[str]) -> None:
        """Asks these peers too; raises `UsageError` for one that cannot be."""
        for peer in peers:
            for address in self._resolve(peer):
                torrent.handle.connect_peer(address)
                torrent.peers.setdefault(address)

    async def restart(self, torrent: Torrent) -> None:
        """Goes on after a failure, once there is room on the disk again.

        What of the last pieces came to be written nobody knows: what is on disk is hashed first. Whoever
        waits for the torrent keeps it.
        """
        key = _key(torrent.handle)
        removed = self._await(torrent.handle, lt.torrent_removed_alert)
        self._torrents.pop(key, None)
        self._session.remove_torrent(torrent.handle)
        await removed
        try:
            handle, have = await self._launch(
                torrent.entry, torrent.metainfo, tuple(torrent.peers), lambda fraction: None
            )
        except BaseException:
            self._locks.pop(key).close()
            raise
        torrent.relaunched(handle, have)
        await self._begin(torrent)

    async def _begin(self, torrent: Torrent) -> None:
        self._torrents[_key(torrent.handle)] = torrent
        await self.update_record(torrent, lambda record: None)
        torrent.order()
        torrent.handle.resume()

    async def fetch_metainfo(
        self, magnet: str, *, peers: Iterable[str] = (), swarm: Membership | None = None
    ) -> tuple[Metainfo, list[str]]:
        """Gets from peers what a magnet link (or an info-hash) leaves out, however long that takes.

        Returns who was connected, too: they may be asked for the rest.

        Raises:
            UsageError: it is no magnet link.
            IntegrityError: what peers sent is no model's torrent.
        """
        params = parse_magnet(magnet)
        if self.config.offline:
            stay_local(params)
        params.peers = [*params.peers, *(a for peer in peers for a in self._resolve(peer))]
        params.save_path = "."
        params.flags |= _FLAGS.default_dont_download | _FLAGS.upload_mode
        # Paused until it has a certificate to show.
        params.flags |= _FLAGS.paused
        params.flags &= ~_FLAGS.auto_managed
        if swarm is not None:
            params.root_certificate = swarm.authority_pem.decode()
        handle = await self._added(params)
        if swarm is not None:
            self._show_certificate(handle, swarm)
        handle.resume()
        try:
            await self._await(handle, lt.metadata_received_alert)
            info = handle.torrent_file()
            assert info is not None, "libtorrent has said that it has the metadata"
            raw = bare_torrent_file(info.info_section(), params)
            known = [
                join_address(*peer.ip)
                for peer in handle.get_peer_info()
                if peer.flags & lt.peer_info.outgoing_connection
            ]
        finally:
            self._session.remove_torrent(handle)
        return read_metainfo(raw, source=magnet), known

    async def remove(self, torrent: Torrent) -> None:
        """Stops a torrent and writes down where it stood."""
        key = _key(torrent.handle)
        torrent.handle.pause()
        await self.save(torrent)
        self._torrents.pop(key, None)
        removed = self._await(torrent.handle, lt.torrent_removed_alert)
        self._session.remove_torrent(torrent.handle)
        await removed
        if timer := self._saves.pop(key, None):
            timer.cancel()
        self._locks.pop(key).close()

    async def save(self, torrent: Torrent) -> None:
        """Writes down what is here: first everything is put on disk, then said to be there.

        Of a torrent that failed, what was written down before is still true, and more is not known.
        """
        if torrent.failure is not None:
            return
        flags = lt.save_resume_flags_t
        lacks_layers = torrent.metainfo.lacks_layers and torrent.is_complete
        torrent.handle.save_resume_data(
            flags.flush_disk_cache | (flags.save_info_dict if lacks_layers else 0)
        )
        try:
            saved: SavedState = await self._await(torrent.handle, lt.save_resume_data_alert)
        except CapacityError as error:
            _log.warning("%s: %s", torrent.metainfo.name, error.message)
            return
        torrent.on_disk |= saved.have
        # The torrent may have been removed meanwhile.
        sources = torrent.handle.piece_availability() if torrent.handle.is_valid() else []

        def write(record: Record) -> None:
            # Data first: what is said to be there must be there also after a power cut.
            for path in torrent.entry.model_paths(record) if not record.is_in_place else ():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if saved.whole_torrent is not None:
                _keep_layers(torrent, saved.whole_torrent)
            write_durably(torrent.entry.resume_path, saved.resume)
            if any(sources):
                record.num_sources = list(sources)

        try:
            await self.update_record(torrent, write)
        except CapacityError as error:
            # The disk is full: what was written down before is still true.
            _log.warning("%s: %s", torrent.metainfo.name, error.message)

    async def update_record(self, torrent: Torrent, change: Callable[[Record], None]) -> None:
        """Changes what is remembered of a torrent, in a thread: a disk that is busy writes slowly.

        Raises:
            CapacityError: the disk is full or failing.
        """
        is_complete, num_have = torrent.is_complete, len(torrent.on_disk)

        def work() -> None:
            with disk_errors():
                record = torrent.entry.record()
                change(record)
                record.signatures = signatures(torrent.entry.model_paths(record))
                record.is_complete, record.num_have = is_complete, num_have
                torrent.entry.save(record)

        async with self._writing:
            await asyncio.to_thread(work)

    def note_progress(self, torrent: Torrent) -> None:
        key = _key(torrent.handle)
        if torrent.is_complete:
            # Not at once: this is the moment in which the first token is computed.
            if timer := self._saves.pop(key, None):
                timer.cancel()
            loop = asyncio.get_running_loop()
            self._saves[key] = loop.call_later(_SETTLE_S, self._save_soon, torrent)
        elif key not in self._saves:
            loop = asyncio.get_running_loop()
            # The first time soon: it also remembers who has the model.
            delay_s = _SAVE_INTERVAL_S if torrent.entry.resume_path.exists() else _FIRST_SAVE_S
            self._saves[key] = loop.call_later(delay_s, self._save_soon, torrent)

    def _save_soon(self, torrent: Torrent) -> None:
        self._saves.pop(_key(torrent.handle), None)
        if _key(torrent.handle) in self._torrents:
            task = asyncio.ensure_future(self.save(torrent))
            self._saving.add(task)
            task.add_done_callback(self._saving.discard)

    # starting a torrent

    async def _launch(
        self,
        entry: Entry,
        metainfo: Metainfo,
        addresses: Sequence[tuple[str, int]],
        on_check: Callable[[float], None],
    ) -> tuple[lt.torrent_handle, set[int]]:
        """A torrent in libtorrent, still paused, and the pieces that it has."""
        record = entry.record()
        have = await asyncio.to_thread(verified_pieces, entry, record, metainfo, on_check)
        params = torrent_params(entry, record, metainfo, have)
        if self.config.offline:
            stay_local(params)
        # Peers named here are connected at once, those named later at the next tick.
        params.peers = [*addresses, *params.peers]
        handle = await self._start(params, record, metainfo)
        return handle, await self._checked(handle) if have is None else have

    async def _start(
        self, params: lt.add_torrent_params, record: Record, metainfo: Metainfo
    ) -> lt.torrent_handle:
        swarm = None
        if metainfo.needs_certificate:
            swarm = self._memberships.get(record.swarm or "")
            if swarm is None:
                raise UsageError(
                    f"{record.name} belongs to the private swarm {record.swarm or '?'}",
                    code="swarm.unknown",
                    hint="`bmrt swarm join` with an invitation from one of its members",
                )
        handle = await self._added(params)
        if swarm is not None:
            self._show_certificate(handle, swarm)
        return handle

    async def _added(self, params: lt.add_torrent_params) -> lt.torrent_handle:
        try:
            handle: lt.torrent_handle = self._session.add_torrent(params)
            return handle
        except RuntimeError as error:
            raise UsageError(
                f"libtorrent refuses the torrent: {error}", code="torrent.refused"
            ) from error

    async def _checked(self, handle: lt.torrent_handle) -> set[int]:
        """Lets libtorrent hash what is on disk."""
        checking = self._await(handle, lt.torrent_checked_alert)
        handle.force_recheck()
        handle.resume()
        await checking
        pieces = handle.status(lt.torrent_handle.query_pieces).pieces
        return {i for i, has in enumerate(pieces) if has}

    def _show_certificate(self, handle: lt.torrent_handle, swarm: Membership) -> None:
        swarm.require_valid(utc_now())
        handle.set_ssl_certificate(
            str(swarm.certificate_path), str(swarm.key_path), str(swarm.dh_path), ""
        )

    def _resolve(self, peer: str) -> list[tuple[str, int]]:
        host, port = parse_peer(peer, offline=self.config.offline)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(f"no address for the peer {host!r}", code="peer.unknown") from error
        return list(dict.fromkeys((str(address[0]), port) for *_, address in found))

    def set_limits(self, config: SwarmConfig) -> None:
        """Takes over the rate limits of changed settings."""
        self.config = config
        limits: Any = {
            "download_rate_limit": config.download_limit,
            "upload_rate_limit": config.upload_limit,
        }
        self._session.apply_settings(limits)
        self._limit_local_peers()

    def _limit_local_peers(self) -> None:
        # libtorrent leaves peers on the LAN out of its limits; who set one means it.
        session, config = self._session, self.config
        local = session.local_peer_class_id
        limits = session.get_peer_class(local)
        limits["download_limit"] = config.download_limit
        limits["upload_limit"] = config.upload_limit
        session.set_peer_class(local, limits)

    # alerts

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._near.recv(4096):
                pass
        for alert in self._session.pop_alerts():
            self._on_alert(alert)

    def _on_alert(self, alert: lt.alert) -> None:
        if isinstance(alert, lt.dht_get_peers_reply_alert):
            self.dht.on_reply(alert)
            return
        if isinstance(alert, lt.torrent_removed_alert):
            key = _hex(alert.info_hashes)  # its handle is void already
        else:
            handle = getattr(alert, "handle", None)
            key = _key(handle) if handle is not None else ""
        torrent = self._torrents.get(key)
        keys = {key}
        if isinstance(alert, lt.metadata_received_alert):
            # Who had only its v1 hash waits under that: now the torrent turns out to be a hybrid one.
            keys.add(str(alert.handle.info_hashes().v1))
        # Alerts are void once the next ones are fetched, which may be before anybody wakes.
        answer = None
        if isinstance(alert, lt.save_resume_data_alert):
            answer = read_state(alert.params, torrent.peers if torrent else ())
        for known in keys:
            for future in self._awaited.pop((known, type(alert)), ()):
                if not future.done():
                    future.set_result(answer)
        if isinstance(alert, lt.save_resume_data_failed_alert):
            failure = CapacityError(
                f"its state was not saved: {alert.message()}", code="disk.write"
            )
            for future in self._awaited.pop((key, lt.save_resume_data_alert), ()):
                if not future.done():
                    future.set_exception(failure)
        if isinstance(alert, (lt.peer_error_alert, lt.peer_disconnected_alert)):
            self._on_refusal(alert)
        if torrent is None:
            return
        if isinstance(alert, lt.piece_finished_alert):
            torrent.on_piece(alert.piece_index)
        elif isinstance(alert, lt.cache_flushed_alert):
            torrent.on_flushed()
        elif isinstance(alert, lt.peer_connect_alert):
            torrent.on_peer(alert.endpoint)
        elif isinstance(alert, lt.hash_failed_alert):
            torrent.on_bad_piece(alert.piece_index)
        elif isinstance(alert, lt.peer_ban_alert):
            torrent.on_ban(_address(alert))
        elif isinstance(alert, (lt.file_error_alert, lt.torrent_error_alert)):
            torrent.on_failure(disk_failure(str(alert.error.message())))
        elif isinstance(alert, (lt.url_seed_alert, lt.tracker_error_alert)):
            _log.warning("%s: %s", torrent.metainfo.name, _said(alert))
        elif isinstance(alert, lt.peer_error_alert):
            _log.debug("%s: %s", torrent.metainfo.name, _said(alert))

    def _on_refusal(self, alert: lt.peer_error_alert | lt.peer_disconnected_alert) -> None:
        reason = explain_refusal(alert)
        who = alert.endpoint[0], reason
        # Once: a peer that is refused tries again and again.
        if reason is not None and who not in self._refusals and len(self._refusals) < _MAX_REFUSALS:
            self._refusals.add(who)
            _log.warning("private swarm: no connection with %s: %s", _address(alert), reason)

    def _await(self, handle: lt.torrent_handle, alert: type) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault((_key(handle), alert), []).append(future)
        return future


def _keep_layers(torrent: Torrent, raw: bytes) -> None:
    """A magnet link brings no hashes of pieces by v2; whoever has all pieces can give them on."""
    try:
        metainfo = read_metainfo(raw, source=torrent.metainfo.id)
    except IntegrityError as error:
        _log.debug("%s: no v2 hashes: %s", torrent.metainfo.name, error)
        return
    write_durably(torrent.entry.metainfo_path, raw)
    torrent.metainfo = metainfo


def _said(alert: lt.alert) -> str:
    """What an alert says, which may be the words of a stranger, for a terminal."""
    try:
        return one_line(alert.message())
    except UnicodeDecodeError:
        return alert.what()


def _key(handle: lt.torrent_handle) -> str:
    return _hex(handle.info_hashes())


def _hex(hashes: lt.info_hash_t) -> str:
    return str(hashes.v2 if hashes.has_v2() else hashes.v1)


def _address(alert: lt.peer_alert) -> str:
    return join_address(*alert.endpoint)
