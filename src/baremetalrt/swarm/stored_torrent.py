"""A torrent of the catalogue with all that is kept of it: record, description, libtorrent's state."""

from collections.abc import Set
from functools import cached_property

import libtorrent as lt

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import open_regular, write_durably
from baremetalrt.swarm.catalog import Entry, gone
from baremetalrt.swarm.metainfo import MAX_TORRENT_BYTES, Metainfo, read_metainfo
from baremetalrt.swarm.resume import read_resume_data
from baremetalrt.weights.gguf import GGUFFile


class StoredTorrent:
    """Everything is read once, and passed along from here."""

    def __init__(self, entry: Entry, metainfo: Metainfo) -> None:
        self.entry = entry
        self.metainfo = metainfo

    @classmethod
    def open(cls, entry: Entry) -> "StoredTorrent":
        """Reads the description of a torrent; raises like `read_metainfo`, and if it is gone."""
        path = entry.metainfo_path
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise gone(entry.id) from error
        return cls(entry, read_metainfo(raw, source=str(path), choice=entry.record.choice))

    @cached_property
    def resume(self) -> lt.add_torrent_params | None:
        """What libtorrent wrote down; None if there is nothing, or it is damaged."""
        return read_resume_data(self.entry.resume_path)

    @property
    def claimed(self) -> set[int]:
        """The pieces that were written down as verified and on disk."""
        if self.entry.record.is_complete:
            return set(self.metainfo.model_pieces)
        return self.resumed

    @property
    def resumed(self) -> set[int]:
        """Those of them that libtorrent wrote down."""
        return {i for i, has in enumerate(self.resume.have_pieces) if has} if self.resume else set()

    def forgive(self) -> None:
        """Who was banned is not, for the next start."""
        if self.resume is not None:
            self.resume.banned_peers = []

    def blocks_here(self, file: GGUFFile) -> list[bool]:
        """For every block, whether it was verified and is on disk."""
        have = self.claimed
        return [self.metainfo.pieces.contains(block.byte_ranges, have) for block in file.blocks]

    def forget_pieces(self, have: Set[int]) -> None:
        """Writes down that only the pieces `have` are here; the record is left to the caller."""
        resume = self.resume
        if resume is None:
            resume = lt.load_torrent_buffer(self.metainfo.raw)
            hashes, resume.ti = resume.info_hashes, None
            resume.info_hashes = hashes
        resume.have_pieces = [piece in have for piece in range(self.metainfo.pieces.num_pieces)]
        resume.unfinished_pieces = {}
        write_durably(self.entry.resume_path, lt.write_resume_data_buf(resume))


def read_torrent_file(path: str, choice: str | None = None) -> Metainfo:
    """A `.torrent` file; raises like `read_metainfo`, and `UsageError` if it cannot be read."""
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_TORRENT_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}",
            code="torrent.unreadable",
            hint="name the .torrent file itself",
        ) from error
    return read_metainfo(raw, source=path, choice=choice)
