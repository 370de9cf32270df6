"""What libtorrent wrote down of a torrent when it last ran here: pieces, peers, who was banned."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import libtorrent as lt

_log = logging.getLogger("baremetalrt.swarm")
_MAX_REMEMBERED: Final = 100


@dataclass(frozen=True)
class SavedState:
    """What libtorrent says of a torrent, as bytes: its own objects last as long as the alert.

    `peers` are those whom others can call. `whole_torrent` is the `.torrent` file with the v2 hashes of
    all pieces, where they are known and it was asked for.
    """

    have: set[int]
    peers: list[tuple[str, int]]
    resume: bytes
    whole_torrent: bytes | None


def read_state(params: lt.add_torrent_params, peers: Iterable[tuple[str, int]]) -> SavedState:
    """Takes over what `save_resume_data` brought, with `peers` remembered, the latest one last."""
    whole = None
    if params.ti is not None:
        try:
            described: Any = lt.write_torrent_file(params)
            whole = lt.bencode(described)
        except RuntimeError as error:
            _log.debug("no v2 hashes: %s", error)
        params.ti = None
    # libtorrent forgets whom it could not reach just now.
    known = dict.fromkeys([*reversed([*peers]), *params.peers])
    banned = set(params.banned_peers)
    params.peers = [peer for peer in known if peer not in banned][:_MAX_REMEMBERED]
    have = {i for i, has in enumerate(params.have_pieces) if has}
    return SavedState(have, list(params.peers), lt.write_resume_data_buf(params), whole)


def read_resume_data(path: Path) -> lt.add_torrent_params | None:
    """What was written down; None if there is nothing, or it is damaged."""
    try:
        return lt.read_resume_data(path.read_bytes())
    except (OSError, RuntimeError):
        return None
