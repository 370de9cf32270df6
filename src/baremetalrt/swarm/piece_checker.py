"""Whether the bytes on disk are still those that were verified.

libtorrent trusts what it remembers. We trust it as long as the system says that nobody but us has
written to the files: size, times and inode are as we left them. Otherwise (an editor, a restored
backup, our own process killed while it wrote) every piece that has bytes on disk is hashed again. Bits
that rot without any write are looked for a little at a time, at a cursor that goes round.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import libtorrent as lt

from baremetalrt.core.units import MIB
from baremetalrt.swarm.catalog import FileSignature
from baremetalrt.swarm.metainfo import Metainfo

AUDIT_BYTES: Final = 64 * MIB
_READ_BYTES: Final = MIB
_THREADS: Final = 2


class PieceChecker:
    """Hashes pieces of the files of a model. Blocks; the hashing itself runs without the GIL."""

    def __init__(self, metainfo: Metainfo, paths: tuple[Path, ...]) -> None:
        self._metainfo = metainfo
        self._info = lt.load_torrent_buffer(metainfo.raw).ti
        self._files = dict(zip((f.index for f in metainfo.files), paths, strict=True))
        assert self._info is not None
        layout = self._info.layout()
        self._layout = [
            (
                layout.file_offset(i),
                layout.file_offset(i) + layout.file_size(i),
                i,
                bool(layout.file_flags(i) & lt.file_storage.flag_pad_file),
            )
            for i in range(layout.num_files())
            if layout.file_size(i)
        ]

    @property
    def can_check(self) -> bool:
        """Whether the torrent names a hash per piece (v1 and hybrid ones do)."""
        return self._metainfo.infohash_v1 is not None

    def is_ours(self, piece: int) -> bool:
        """Whether nothing of a piece lies in a file beside the model, which is not here to be hashed."""
        start, end = self._metainfo.pieces.piece_range(piece)
        return all(
            is_padding or index in self._files
            for first, last, index, is_padding in self._layout
            if max(start, first) < min(end, last)
        )

    def check(
        self, pieces: Iterable[int], on_progress: Callable[[float], None] = lambda fraction: None
    ) -> set[int]:
        """Those of `pieces` whose bytes are on disk and right."""
        ordered = sorted(pieces)
        good = set()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="checking") as threads:
            for done, (piece, is_good) in enumerate(
                zip(ordered, threads.map(self._is_good, ordered), strict=True), 1
            ):
                if is_good:
                    good.add(piece)
                on_progress(done / len(ordered))
        return good

    def _is_good(self, piece: int) -> bool:
        start, end = self._metainfo.pieces.piece_range(piece)
        digest = hashlib.sha1(usedforsecurity=False)
        for first, last, index, is_padding in self._layout:
            low, high = max(start, first), min(end, last)
            if low >= high:
                continue
            if is_padding:
                digest.update(bytes(high - low))
                continue
            path = self._files.get(index)
            if path is None:
                return False  # shared with a file that is not ours to read
            try:
                with path.open("rb") as file:
                    file.seek(low - first)
                    left = high - low
                    while left:
                        data = file.read(min(left, _READ_BYTES))
                        if not data:
                            return False
                        digest.update(data)
                        left -= len(data)
            except OSError:
                return False
        assert self._info is not None
        return digest.digest() == self._info.hash_for_piece(piece)

    def on_disk(self) -> set[int]:
        """Pieces that have bytes on disk at all: not wholly in a hole, or past the end, of a file."""
        pieces = self._metainfo.pieces
        found: set[int] = set()
        for number, (index, path) in enumerate(self._files.items()):
            assert self._metainfo.files[number].index == index
            part = pieces.parts[number]
            for start, end in _data_ranges(path):
                first = (part.start + start) // pieces.piece_bytes
                last = (part.start + min(end, part.num_bytes) - 1) // pieces.piece_bytes
                found.update(range(first, last + 1))
        return found


def signatures(paths: Iterable[Path]) -> list[FileSignature | None]:
    """What the system says of each file now."""
    return [FileSignature.of(path) for path in paths]


def audit_window(cursor: int, num_pieces: int, piece_bytes: int) -> tuple[range, int]:
    """The pieces to look at this time, and where to go on the next. Pure."""
    start = cursor if 0 <= cursor < num_pieces else 0
    end = min(num_pieces, start + max(1, AUDIT_BYTES // piece_bytes))
    return range(start, end), end % num_pieces


def _data_ranges(path: Path) -> list[tuple[int, int]]:
    """Byte ranges of a file that are not holes; the whole file where the system cannot tell."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not hasattr(os, "SEEK_DATA"):
                return [(0, size)] if size else []
            ranges, at = [], 0
            while at < size:
                try:
                    start = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break  # nothing but hole from here on
                at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                ranges.append((start, at))
            return ranges
    except OSError:
        return []
