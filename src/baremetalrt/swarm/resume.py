"""What libtorrent wrote down of a torrent when it last ran here: pieces, peers, who was banned."""

from collections.abc import Set

import libtorrent as lt

from baremetalrt.swarm.catalog import Entry
from baremetalrt.swarm.files import write_durably


def read_resume_data(entry: Entry) -> lt.add_torrent_params | None:
    """What was written down; None if there is nothing, or it is damaged."""
    try:
        return lt.read_resume_data(entry.resume_path.read_bytes())
    except (OSError, RuntimeError):
        return None


def pieces_in_resume_data(entry: Entry) -> set[int]:
    """The pieces that were verified and on disk."""
    resume = read_resume_data(entry)
    return {i for i, has in enumerate(resume.have_pieces) if has} if resume else set()


def forget_pieces(entry: Entry, num_pieces: int, have: Set[int]) -> None:
    """Writes down that only the pieces `have` are here."""
    resume = read_resume_data(entry)
    if resume is None:
        entry.resume_path.unlink(missing_ok=True)
        resume = lt.load_torrent_buffer(entry.metainfo_path.read_bytes())
        resume.ti = None
        resume.info_hashes = lt.load_torrent_buffer(entry.metainfo_path.read_bytes()).info_hashes
    resume.have_pieces = [piece in have for piece in range(num_pieces)]
    resume.unfinished_pieces = {}
    write_durably(entry.resume_path, lt.write_resume_data_buf(resume))
