"""One torrent that is running: which pieces are here, who waits for which, what is asked for now."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import libtorrent as lt

from baremetalrt.core.errors import BareMetalError, CapacityError
from baremetalrt.core.spans import ByteRange
from baremetalrt.swarm.alerts import TorrentGoneError
from baremetalrt.swarm.catalog import Entry
from baremetalrt.swarm.fetch_order import FetchOrder, order_fetch, step_pieces
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.swarm.stalls import SourceView, StallWatch

_log = logging.getLogger("baremetalrt.swarm")

# So long after the first piece of a magnet link, peers have answered with the v2 hashes of pieces.
_LAYERS_S: Final = 2.0
# Pieces to ask for before the first of them is known to be good or bad.
_PROBES: Final = 2


@dataclass(frozen=True)
class TorrentProgress:
    """How a torrent is doing. Rates are bytes per second, `eta_s` None when nobody can say."""

    wanted_bytes: int
    have_bytes: int
    download_rate: int
    upload_rate: int
    num_peers: int
    num_seeds: int
    downloaded_bytes: int
    uploaded_bytes: int
    wasted_bytes: int

    @property
    def eta_s(self) -> float | None:
        missing = self.wanted_bytes - self.have_bytes
        return missing / self.download_rate if self.download_rate else None


@dataclass(frozen=True)
class Transfer:
    """What libtorrent counts of a torrent, as it last said. Rates are bytes per second."""

    download_rate: int = 0
    upload_rate: int = 0
    num_peers: int = 0
    num_seeds: int = 0
    downloaded_bytes: int = 0
    uploaded_bytes: int = 0
    wasted_bytes: int = 0


class Keeper(Protocol):
    """Whom a torrent tells what should last."""

    def note_progress(self, torrent: "Torrent") -> None:
        """Pieces have come, or what had come is on disk now."""

    def note_peer(self, torrent: "Torrent", endpoint: tuple[str, int]) -> None:
        """A connection is there, whoever called whom."""


@dataclass(eq=False)
class _Waiter:
    """`is_urgent` waiters want their pieces before all others."""

    pieces: frozenset[int]
    done: asyncio.Future[None]
    is_urgent: bool


class Torrent:
    """Use from the event loop of its client only."""

    # the entry's resume data is there
    was_saved = False

    def __init__(
        self,
        handle: lt.torrent_handle,
        metainfo: Metainfo,
        entry: Entry,
        keeper: Keeper,
        *,
        have: Iterable[int],
        wanted: Iterable[int],
    ) -> None:
        self.handle = handle
        self.metainfo = metainfo
        self.entry = entry
        self._keeper = keeper
        # verified, and of those, what was flushed: only that may be read
        self._have = set(have)
        self.on_disk = set(have)
        self.wanted = set(wanted)
        parts = metainfo.pieces.parts
        self._model = metainfo.pieces.pieces(
            ByteRange(i, 0, part.num_bytes) for i, part in enumerate(parts)
        )
        # bytes of the model in each piece, without padding and what lies beside it
        self._piece_bytes = [
            sum(len(r) for r in metainfo.pieces.byte_ranges([piece]))
            for piece in range(metainfo.pieces.num_pieces)
        ]
        self._units: list[frozenset[int]] = []
        self._waiters: list[_Waiter] = []
        self._flushing: set[int] | None = None
        self._order = FetchOrder(())
        self._step = step_pieces(metainfo.pieces.piece_bytes)
        self._expects_layers = self._has_layers = False
        self._is_probed = False
        self._transfer = Transfer()
        # how many pieces were here when the order was last told
        self._num_ordered = 0
        self.failure: BareMetalError | None = None
        # everyone who could be reached once, in order: to be asked again
        self.peers: dict[tuple[str, int], None] = {}
        # by `time.perf_counter`; None while nothing has come
        self.last_piece_at: float | None = None
        self.num_bad_pieces = 0
        self.banned: list[str] = []
        # since it was last started, and of those before it
        self.num_banned = 0
        self._stalls = StallWatch()

    @property
    def is_complete(self) -> bool:
        """Whether every piece of the model is verified and on disk."""
        return self._model <= self.on_disk

    @property
    def missing(self) -> frozenset[int]:
        """Pieces that are wanted or waited for and not here."""
        awaited = (w.pieces for w in self._waiters)
        return frozenset(self.wanted.union(*awaited) - self._have)

    def is_stuck(self, now_s: float, sources: Sequence[SourceView]) -> bool:
        """Whether it has to be started anew; see `StallWatch`."""
        return self._stalls.is_stuck(
            now_s, num_have=len(self._have), sources=sources, num_banned=self.num_banned
        )

    def has(self, ranges: Iterable[ByteRange]) -> bool:
        """Whether these bytes are verified and on disk."""
        return self.metainfo.pieces.contains(ranges, self.on_disk)

    async def wait_for(self, ranges: Iterable[ByteRange]) -> None:
        """Returns once these bytes are verified and on disk; until then they are fetched first.

        Raises:
            CapacityError: the disk is full or failing, or the torrent was removed (`TorrentGoneError`).
        """
        await self._wait(self.metainfo.pieces.pieces(ranges), is_urgent=True)

    async def finished(self) -> None:
        """Returns once everything wanted is here; raises like `wait_for`."""
        await self._wait(frozenset(self.wanted), is_urgent=False)

    async def _wait(self, pieces: frozenset[int], *, is_urgent: bool) -> None:
        if pieces <= self.on_disk:
            return
        if self.failure is not None:
            raise self.failure
        waiter = _Waiter(pieces, asyncio.get_running_loop().create_future(), is_urgent)
        self._waiters.append(waiter)
        self.order()
        if pieces <= self._have:
            self._flush()
        try:
            await waiter.done
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def set_units(self, units: Sequence[Iterable[ByteRange]]) -> None:
        """Says in which order the bytes of the model are computed with."""
        self._units = [self.metainfo.pieces.pieces(unit) for unit in units]
        self.order()

    def want_only(self, ranges: Iterable[ByteRange]) -> None:
        """Fetches these bytes and no others; the rarest first, if no order was set."""
        self.wanted = set(self.metainfo.pieces.pieces(ranges))
        self.order()

    def order(self) -> None:
        """Tells libtorrent what to ask for, where that has changed and the torrent still runs."""
        if not self.handle.is_valid():
            return
        metainfo = self.metainfo
        order = order_fetch(
            num_pieces=metainfo.pieces.num_pieces,
            wanted=self.wanted,
            have=self._have,
            units=self._units,
            awaited=[w.pieces for w in self._waiters if w.is_urgent],
            step=self._step,
            probes=None if self._is_probed else _PROBES,
        )
        self._num_ordered = len(self._have)
        over = self._order.deadlines_ms.keys() - order.deadlines_ms.keys() - self._have
        for piece in over:
            self.handle.reset_piece_deadline(piece)
        # A piece whose deadline is taken back loses its priority, too.
        if over or order.priorities != self._order.priorities:
            self.handle.prioritize_pieces(list(order.priorities))
        deadlines = order.deadlines_ms if self._sets_deadlines() else {}
        for piece, deadline_ms in deadlines.items():
            if piece not in self._order.deadlines_ms:
                self.handle.set_piece_deadline(piece, deadline_ms)
        self._order = FetchOrder(order.priorities, deadlines)

    def _sets_deadlines(self) -> bool:
        """Whether a piece may be asked of several peers at once.

        Not in the first moments of a magnet link: until v2 hashes have come, nobody could say which of
        them lied, and an honest one would be banned with the liar. They are asked for when a peer is
        there, and come before its first piece or soon after it, however long all that takes.
        """
        return not self.metainfo.lacks_layers or self._has_layers

    def _expect_layers(self) -> None:
        if self.metainfo.lacks_layers and not self._expects_layers:
            self._expects_layers = True
            asyncio.get_running_loop().call_later(_LAYERS_S, self._on_layers)

    def _on_probed(self) -> None:
        if not self._is_probed:
            self._is_probed = True
            self.order()

    def _on_layers(self) -> None:
        self._has_layers = True
        if self.handle.is_valid() and self.failure is None:
            self.order()

    # what libtorrent reports

    def on_piece(self, piece: int) -> None:
        """A piece has passed its hash. It may still be on its way to the disk."""
        self._have.add(piece)
        self._expect_layers()
        self._on_probed()
        self.last_piece_at = time.perf_counter()
        if self._units and len(self._have) - self._num_ordered >= self._step // 2:
            self.order()
        if any(w.pieces <= self._have for w in self._waiters) or self.wanted <= self._have:
            self._flush()
        self._keeper.note_progress(self)

    def on_flushed(self) -> None:
        """What was verified when the flush was asked for is on disk now."""
        flushed, self._flushing = self._flushing, None
        if flushed is None:
            return
        self.on_disk |= flushed
        for waiter in list(self._waiters):
            if waiter.pieces <= self.on_disk:
                self._waiters.remove(waiter)
                if not waiter.done.done():
                    waiter.done.set_result(None)
        self._keeper.note_progress(self)
        if any(w.pieces <= self._have for w in self._waiters):
            self._flush()

    def _flush(self) -> None:
        # One at a time: an alert does not say which request it answers.
        if self._flushing is None and self._have - self.on_disk:
            self._flushing = set(self._have)
            self.handle.flush_cache()

    def on_peer(self, endpoint: tuple[str, int]) -> None:
        """A connection is there; whether it is one to remember, only its keeper can ask."""
        self._keeper.note_peer(self, endpoint)

    def remember_peer(self, endpoint: tuple[str, int]) -> None:
        """Somebody who can be reached, to be asked again. The latest one is the last."""
        self.peers.pop(endpoint, None)
        self.peers[endpoint] = None

    def on_transfer(self, transfer: Transfer) -> None:
        """What libtorrent counts, by now."""
        self._transfer = transfer

    def on_bad_piece(self, piece: int) -> None:
        self.num_bad_pieces += 1
        self._on_probed()
        _log.warning("%s: piece %d failed its hash and is thrown away", self.metainfo.name, piece)

    def on_ban(self, address: str) -> None:
        self.num_banned += 1
        if address not in self.banned:
            self.banned.append(address)
        _log.warning("%s: %s sent bad data and is banned", self.metainfo.name, address)

    def on_failure(self, error: BareMetalError) -> None:
        """The torrent has stopped; everybody who waits hears of it."""
        if self.failure is not None:
            return  # every write that was on its way fails by itself
        _log.error("%s: %s", self.metainfo.name, error.message)
        self._stop(error)

    def on_removed(self) -> None:
        """It is over; everybody who waits hears of it, and whoever asks later."""
        self._stop(self.failure or TorrentGoneError())

    def _stop(self, error: BareMetalError) -> None:
        self.failure = error
        self._flushing = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done.done():
                waiter.done.set_exception(error)

    def relaunched(self, handle: lt.torrent_handle, have: Iterable[int]) -> None:
        """Goes on, under a new handle, with the pieces that are really here."""
        self.handle = handle
        self._have = set(have)
        self.on_disk = set(have)
        self._order = FetchOrder(())
        self._is_probed = False
        self.num_banned = 0
        self.failure = None
        # What was asked of the old handle is not answered.
        self._flushing = set(self._have)
        self.on_flushed()

    def progress(self) -> TorrentProgress:
        """How it is doing; rates and counts are those of the client's last `refresh`."""
        wanted, have = self.wanted, self._have & self.wanted
        size = self._num_bytes
        return TorrentProgress(
            wanted_bytes=size(wanted), have_bytes=size(have), **vars(self._transfer)
        )

    def _num_bytes(self, pieces: Iterable[int]) -> int:
        return sum(map(self._piece_bytes.__getitem__, pieces))


def disk_failure(what: str) -> CapacityError:
    """The error for a torrent that libtorrent stopped because of its files."""
    return CapacityError(
        f"cannot write what arrives: {what}",
        code="disk.full" if "space" in what.lower() else "disk.write",
        hint="make room and start again: what has arrived is kept; `bmrt gc` evicts what is used least",
    )
