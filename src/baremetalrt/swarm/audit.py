"""Looks for bits that rotted on disk without anybody writing: some pieces each time, going round."""

import logging
from collections.abc import Callable

from baremetalrt.core.files import disk_errors
from baremetalrt.swarm.catalog import Entry
from baremetalrt.swarm.piece_checker import PieceChecker, audit_window, signatures
from baremetalrt.swarm.stored_torrent import StoredTorrent

_log = logging.getLogger("baremetalrt.swarm")


def audit(entry: Entry, on_progress: Callable[[float], None] = lambda fraction: None) -> set[int]:
    """Hashes the next 64 MiB of a torrent that no process uses; returns the pieces that rotted.

    They are forgotten: the next run fetches them again. Files in place are somebody else's; there,
    too, nothing is claimed any more that does not hold.
    """
    if entry.is_busy:
        return set()
    with entry.locked():
        stored = StoredTorrent.open(entry)
        record, pieces, paths = entry.record, stored.metainfo.pieces, entry.model_paths
        checker = PieceChecker(stored.metainfo, paths)
        if not checker.can_check or record.signatures != signatures(paths):
            return set()  # the second case is found, and mended, when the torrent starts
        have = stored.claimed
        window, record.audited = audit_window(record.audited, pieces.num_pieces, pieces.piece_bytes)
        looked_at = {piece for piece in have & set(window) if checker.is_ours(piece)}
        rotten = looked_at - checker.check(looked_at, on_progress)
        with disk_errors():
            if rotten:
                _log.error("%s: %d pieces have rotted on disk", record.name, len(rotten))
                record.is_complete = False
                record.num_have = len(have - rotten)
                stored.forget_pieces(have - rotten)
            entry.save()
        return rotten
