"""What libtorrent is given when a torrent of the catalogue starts."""

import logging
from collections.abc import Callable
from typing import Final

import libtorrent as lt

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.files import disk_errors
from baremetalrt.swarm.piece_checker import PieceChecker, signatures
from baremetalrt.swarm.stored_torrent import StoredTorrent

_log = logging.getLogger("baremetalrt.swarm")
_FLAGS: Final = lt.torrent_flags


def verified_pieces(stored: StoredTorrent, on_check: Callable[[float], None]) -> set[int] | None:
    """The pieces on disk that may be believed; None leaves the question to libtorrent.

    What was written down is believed if the files are as they were left; otherwise they are hashed. Files
    that are fetched get their full length here: what is not there yet is a hole.

    Raises:
        IntegrityError: a file in place is no longer what was published.
        CapacityError: the files cannot be written.
    """
    record, metainfo, paths = stored.entry.record, stored.metainfo, stored.entry.model_paths
    claimed = set(metainfo.model_pieces) if record.is_complete else set()
    if not record.is_in_place:
        claimed |= stored.resumed
        with disk_errors():
            for path, file in zip(paths, metainfo.files, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as f:
                    if f.tell() < file.part.num_bytes:
                        f.truncate(file.part.num_bytes)
    if record.signatures and record.signatures == signatures(paths):
        return claimed
    checker = PieceChecker(metainfo, paths)
    candidates = checker.on_disk()
    if not candidates:
        return set()
    if not checker.can_check:
        return None
    good = checker.check(candidates, on_check)
    for piece in sorted(claimed - good):
        _log.warning("%s: piece %d is not on disk as it was", metainfo.name, piece)
    if record.is_in_place and good != claimed:
        raise IntegrityError(
            f"{paths[0].name} is no longer the file that was published as {record.name}",
            code="file.changed",
            source=str(paths[0]),
            hint=f"publish it again, or `bmrt rm {record.name}`",
        )
    return good


def torrent_params(stored: StoredTorrent, have: set[int] | None) -> lt.add_torrent_params:
    """The torrent as libtorrent takes it, paused, with what is remembered of peers."""
    entry, metainfo, resume = stored.entry, stored.metainfo, stored.resume
    params = lt.load_torrent_buffer(metainfo.raw)
    if resume is not None:
        params.peers = resume.peers
        params.banned_peers = resume.banned_peers
        params.trackers = list(dict.fromkeys([*params.trackers, *resume.trackers]))
        params.url_seeds = list(dict.fromkeys([*params.url_seeds, *resume.url_seeds]))
    params.save_path = str(entry.folder)
    names = dict(zip((f.index for f in metainfo.files), entry.model_paths, strict=True))
    params.renamed_files = {index: str(path) for index, path in names.items()}
    params.file_priorities = [4 if i in names else 0 for i in range(metainfo.num_files)]
    params.flags = _FLAGS.paused | _FLAGS.update_subscribe | _FLAGS.duplicate_is_error
    if have is not None:
        num_pieces = metainfo.pieces.num_pieces
        params.have_pieces = [piece in have for piece in range(num_pieces)]
        if len(have) == num_pieces and entry.record.is_in_place:
            # Never written to: a piece that turns out bad is not fetched over somebody's file.
            params.flags |= _FLAGS.seed_mode | _FLAGS.upload_mode
    return params


def stay_local(params: lt.add_torrent_params) -> None:
    """Takes out whatever would send packets beyond the local network, and filters peers."""
    params.trackers = []
    params.url_seeds = []
    params.http_seeds = []
    params.dht_nodes = []
    params.flags |= _FLAGS.disable_dht | _FLAGS.apply_ip_filter
