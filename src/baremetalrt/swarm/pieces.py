"""Which pieces of a torrent hold which bytes of a model, and the other way round. Pure."""

from collections.abc import Iterable, Set
from dataclasses import dataclass

from baremetalrt.core.spans import ByteRange, merge
from baremetalrt.core.units import KIB, MIB

# Pieces of a published torrent: a power of two, as small as keeps their number low. Small ones let a
# block compute sooner, many of them make the torrent and every peer's table large.
MIN_PIECE_BYTES = 256 * KIB
MAX_PIECE_BYTES = 64 * MIB
_PIECES_WANTED = 2048


def choose_piece_bytes(total_bytes: int) -> int:
    """The piece size for a model of this size: at least 256 KiB, doubled until 2,048 pieces suffice."""
    size = MIN_PIECE_BYTES
    while size < MAX_PIECE_BYTES and -(-total_bytes // size) > _PIECES_WANTED:
        size *= 2
    return size


@dataclass(frozen=True)
class Part:
    """Where one part of a model lies in the bytes of its torrent, and how long it is."""

    start: int
    num_bytes: int


@dataclass(frozen=True)
class PieceMap:
    """The parts of a model (one, if it is not split) in the pieces of a torrent.

    A torrent may hold more than the model: other files, and padding between them. `file` in a
    `ByteRange` counts the parts of the model.
    """

    piece_bytes: int
    total_bytes: int
    parts: tuple[Part, ...]

    @property
    def num_pieces(self) -> int:
        return -(-self.total_bytes // self.piece_bytes)

    def pieces(self, ranges: Iterable[ByteRange]) -> frozenset[int]:
        """Every piece that holds at least one byte of `ranges`.

        Raises:
            ValueError: a range reaches past its part.
        """
        found: set[int] = set()
        for r in ranges:
            if not len(r):
                continue
            part = self.parts[r.file]
            if r.end > part.num_bytes:
                raise ValueError(f"{r} reaches past a part of {part.num_bytes} bytes")
            first = (part.start + r.start) // self.piece_bytes
            last = (part.start + r.end - 1) // self.piece_bytes
            found.update(range(first, last + 1))
        return frozenset(found)

    def byte_ranges(self, pieces: Iterable[int]) -> tuple[ByteRange, ...]:
        """The bytes of the model that lie in `pieces`."""
        found = []
        for piece in pieces:
            start, end = self.piece_range(piece)
            for number, part in enumerate(self.parts):
                low = max(start, part.start) - part.start
                high = min(end, part.start + part.num_bytes) - part.start
                if low < high:
                    found.append(ByteRange(number, low, high))
        return merge(found)

    def piece_range(self, piece: int) -> tuple[int, int]:
        """The bytes `[start, end)` of a piece, counted through the whole torrent."""
        start = piece * self.piece_bytes
        return start, min(start + self.piece_bytes, self.total_bytes)

    def contains(self, ranges: Iterable[ByteRange], have: Set[int]) -> bool:
        """Whether every byte of `ranges` lies in a piece that is in `have`."""
        return self.pieces(ranges) <= have
