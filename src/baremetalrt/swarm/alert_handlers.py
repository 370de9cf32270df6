"""The table of what is done about each kind of alert."""

import logging
from collections.abc import Callable
from typing import Any, Final

import libtorrent as lt

from baremetalrt.core.addresses import format_address
from baremetalrt.core.errors import BareMetalError, CapacityError, UsageError, one_line
from baremetalrt.swarm.alerts import Handlers
from baremetalrt.swarm.dht import Dht
from baremetalrt.swarm.refusals import explain_refusal
from baremetalrt.swarm.resume import SavedState, read_state
from baremetalrt.swarm.torrent import Torrent, Transfer, disk_failure

_log = logging.getLogger("baremetalrt.swarm")
_MAX_REFUSALS: Final = 1000

Find = Callable[[lt.torrent_handle], Torrent | None]


def alert_handlers(find: Find, dht: Dht) -> Handlers:
    """What to do with alerts of a session, whose torrents `find` knows."""

    def of_torrent(act: Callable[[Torrent, Any], None]) -> Callable[[Any], None]:
        def handler(alert: Any) -> None:
            torrent = find(alert.handle)
            if torrent is not None:
                act(torrent, alert)

        return handler

    def state(alert: lt.save_resume_data_alert) -> SavedState:
        torrent = find(alert.handle)
        return read_state(alert.params, torrent.peers if torrent else ())

    def statuses(alert: lt.state_update_alert) -> None:
        for status in alert.status:
            torrent = find(status.handle)
            if torrent is not None:
                torrent.on_transfer(_transfer(status))

    refusals = _Refusals()
    return Handlers(
        answers={
            lt.add_torrent_alert: (lt.add_torrent_alert, _handle_or_error),
            # A check that failed is never said to be over.
            lt.file_error_alert: (lt.torrent_checked_alert, _not_checked),
            lt.torrent_error_alert: (lt.torrent_checked_alert, _not_checked),
            lt.metadata_received_alert: (lt.metadata_received_alert, _nothing),
            lt.piece_availability_alert: (
                lt.piece_availability_alert,
                lambda alert: list(alert.piece_availability),
            ),
            lt.save_resume_data_alert: (lt.save_resume_data_alert, state),
            lt.save_resume_data_failed_alert: (lt.save_resume_data_alert, _not_saved),
            lt.state_update_alert: (lt.state_update_alert, statuses),
            lt.torrent_checked_alert: (lt.torrent_checked_alert, _nothing),
            lt.torrent_removed_alert: (lt.torrent_removed_alert, _nothing),
        },
        events={
            lt.cache_flushed_alert: of_torrent(lambda torrent, _: torrent.on_flushed()),
            lt.dht_get_peers_reply_alert: dht.on_reply,
            lt.dht_mutable_item_alert: dht.on_item,
            lt.dht_put_alert: dht.on_put,
            lt.file_error_alert: of_torrent(_fail),
            lt.hash_failed_alert: of_torrent(
                lambda torrent, a: torrent.on_bad_piece(a.piece_index)
            ),
            lt.peer_ban_alert: of_torrent(lambda torrent, a: torrent.on_ban(_address(a))),
            lt.peer_connect_alert: of_torrent(lambda torrent, a: torrent.on_peer(a.endpoint)),
            lt.peer_disconnected_alert: refusals.note,
            lt.peer_error_alert: refusals.note,
            lt.piece_finished_alert: of_torrent(lambda torrent, a: torrent.on_piece(a.piece_index)),
            lt.torrent_error_alert: of_torrent(_fail),
            lt.tracker_error_alert: of_torrent(_warn),
            lt.url_seed_alert: of_torrent(_warn),
        },
    )


class _Refusals:
    """Says once why a peer of a private swarm gets no connection: it tries again and again."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def note(self, alert: lt.peer_error_alert | lt.peer_disconnected_alert) -> None:
        if isinstance(alert, lt.peer_error_alert):
            _log.debug("%s: %s", _address(alert), _said(alert))
        reason = explain_refusal(alert)
        if reason is None or len(self._known) >= _MAX_REFUSALS:
            return
        who = alert.endpoint[0], reason
        if who not in self._known:
            self._known.add(who)
            _log.warning("private swarm: no connection with %s: %s", _address(alert), reason)


def _nothing(_alert: lt.alert) -> None:
    return None


def _handle_or_error(alert: lt.add_torrent_alert) -> lt.torrent_handle | BareMetalError:
    if alert.error.value():
        return UsageError(
            f"libtorrent refuses the torrent: {alert.error.message()}", code="torrent.refused"
        )
    return alert.handle


def _not_saved(alert: lt.save_resume_data_failed_alert) -> CapacityError:
    return CapacityError(f"its state was not saved: {_said(alert)}", code="disk.write")


def _not_checked(alert: lt.file_error_alert | lt.torrent_error_alert) -> CapacityError:
    return CapacityError(
        f"what is on disk cannot be checked: {alert.error.message()}",
        code="disk.read",
        hint="can its files be read? `bmrt rm` forgets the torrent",
    )


def _transfer(status: lt.torrent_status) -> Transfer:
    return Transfer(
        download_rate=status.download_payload_rate,
        upload_rate=status.upload_payload_rate,
        num_peers=status.num_peers,
        num_seeds=status.num_seeds,
        downloaded_bytes=status.total_payload_download,
        uploaded_bytes=status.total_payload_upload,
        wasted_bytes=status.total_redundant_bytes + status.total_failed_bytes,
    )


def _fail(torrent: Torrent, alert: lt.file_error_alert | lt.torrent_error_alert) -> None:
    torrent.on_failure(disk_failure(str(alert.error.message())))


def _warn(torrent: Torrent, alert: lt.alert) -> None:
    _log.warning("%s: %s", torrent.metainfo.name, _said(alert))


def _said(alert: lt.alert) -> str:
    """What an alert says, which may be the words of a stranger, for a terminal."""
    try:
        return one_line(alert.message())
    except UnicodeDecodeError:
        return alert.what()


def _address(alert: lt.peer_alert) -> str:
    return format_address(*alert.endpoint)
