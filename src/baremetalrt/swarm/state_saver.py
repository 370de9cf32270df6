"""Writes down what of each torrent is here, while it arrives: a kill loses nothing that was on disk."""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

import libtorrent as lt

from baremetalrt.core.errors import CapacityError, IntegrityError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.tasks import Tasks
from baremetalrt.swarm.alerts import Alerts, TorrentGoneError, key_of
from baremetalrt.swarm.catalog import Record
from baremetalrt.swarm.local_peers import remember
from baremetalrt.swarm.metainfo import read_metainfo
from baremetalrt.swarm.piece_checker import signatures
from baremetalrt.swarm.resume import SavedState
from baremetalrt.swarm.torrent import Torrent

_log = logging.getLogger("baremetalrt.swarm")
# Pieces that were not written down are found on disk and hashed; this only keeps that short.
_SAVE_INTERVAL_S: Final = 5.0
_FIRST_SAVE_S: Final = 0.5
_SETTLE_S: Final = 2.0


class StateSaver:
    """Saves on its own when `note_progress` is told, and when asked to."""

    def __init__(self, alerts: Alerts, *, finds_locally: bool) -> None:
        """`finds_locally`: peers of the local network are remembered for other torrents."""
        self._alerts = alerts
        self._finds_locally = finds_locally
        self._timers: dict[Torrent, asyncio.TimerHandle] = {}
        self._tasks = Tasks()
        # what is remembered is changed by one at a time
        self._writing = asyncio.Lock()

    def note_progress(self, torrent: Torrent) -> None:
        """Pieces have come, or what had come is on disk now: it is written down soon."""
        loop = asyncio.get_running_loop()
        if torrent.is_complete:
            # Not at once: this is the moment in which the first token is computed.
            self.forget(torrent)
            delay_s = _SETTLE_S
        elif torrent in self._timers:
            return
        else:
            # The first time soon: it also remembers who has the model.
            delay_s = _SAVE_INTERVAL_S if torrent.was_saved else _FIRST_SAVE_S
        self._timers[torrent] = loop.call_later(delay_s, self._save_soon, torrent)

    def forget(self, torrent: Torrent) -> None:
        """Nothing more is written down unasked."""
        if timer := self._timers.pop(torrent, None):
            timer.cancel()

    def _save_soon(self, torrent: Torrent) -> None:
        self._timers.pop(torrent, None)
        self._tasks.start("saving the state of a torrent", self.save(torrent))

    async def finished(self) -> None:
        """Returns when all that was begun is written."""
        await self._tasks.finished()

    async def save(self, torrent: Torrent) -> None:
        """Writes down what is here: first everything is put on disk, then said to be there.

        Of a torrent that failed, what was written down before is still true, and more is not known.
        """
        handle = torrent.handle
        if torrent.failure is not None or not handle.is_valid():
            return
        key = key_of(handle)
        flags = lt.save_resume_flags_t
        lacks_layers = torrent.metainfo.lacks_layers and torrent.is_complete
        saving = self._alerts.expect(key, lt.save_resume_data_alert)
        handle.save_resume_data(
            flags.flush_disk_cache | (flags.save_info_dict if lacks_layers else 0)
        )
        try:
            saved: SavedState = await saving
            sources = await self._availability(torrent)
        except CapacityError as error:
            _log.warning("%s: %s", torrent.metainfo.name, error.message)
            return
        except TorrentGoneError:
            return
        torrent.on_disk |= saved.have

        def write(record: Record) -> None:
            # Data first: what is said to be there must be there also after a power cut.
            for path in torrent.entry.model_paths if not record.is_in_place else ():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if saved.whole_torrent is not None:
                _keep_layers(torrent, saved.whole_torrent)
            write_durably(torrent.entry.resume_path, saved.resume)
            if self._finds_locally:
                remember(saved.peers, secure=torrent.metainfo.needs_certificate)
            torrent.was_saved = True
            if any(sources):
                record.num_sources = sources

        try:
            await self.update_record(torrent, write)
        except CapacityError as error:
            # The disk is full: what was written down before is still true.
            _log.warning("%s: %s", torrent.metainfo.name, error.message)

    async def _availability(self, torrent: Torrent) -> list[int]:
        """How many peers have each piece, when last seen."""
        answer = self._alerts.expect(key_of(torrent.handle), lt.piece_availability_alert)
        torrent.handle.post_piece_availability()
        found: list[int] = await answer
        return found

    async def update_record(self, torrent: Torrent, change: Callable[[Record], None]) -> None:
        """Changes what is remembered of a torrent, in a thread: a disk that is busy writes slowly.

        Raises:
            CapacityError: the disk is full or failing.
        """
        is_complete, num_have = torrent.is_complete, len(torrent.on_disk)

        def work() -> None:
            with disk_errors():
                record = torrent.entry.record
                change(record)
                record.signatures = signatures(torrent.entry.model_paths)
                record.is_complete, record.num_have = is_complete, num_have
                torrent.entry.save()

        async with self._writing:
            await asyncio.to_thread(work)


def _keep_layers(torrent: Torrent, raw: bytes) -> None:
    """A magnet link brings no hashes of pieces by v2; whoever has all pieces can give them on."""
    try:
        metainfo = read_metainfo(raw, source=torrent.metainfo.id, choice=torrent.metainfo.choice)
    except IntegrityError as error:
        _log.debug("%s: no v2 hashes: %s", torrent.metainfo.name, error)
        return
    write_durably(torrent.entry.metainfo_path, raw)
    torrent.metainfo = metainfo
