"""Blocks, bytes and pieces, there and back; libtorrent's own arithmetic is the oracle."""

from collections.abc import Callable
from dataclasses import dataclass

import libtorrent as lt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetalrt.core.spans import ByteRange, merge
from baremetalrt.core.units import GIB, KIB, MIB
from baremetalrt.swarm.metainfo import Metainfo, read_metainfo
from baremetalrt.swarm.pieces import (
    MAX_PIECE_BYTES,
    MIN_PIECE_BYTES,
    Part,
    PieceMap,
    choose_piece_bytes,
)
from raw_torrents import FileEntry, info_hybrid, info_v1, torrent

Owner = tuple[int, int] | None


@dataclass(frozen=True)
class Layout:
    """A torrent of a few hundred bytes. `owners` says of each which byte of which part it is, if any."""

    map: PieceMap
    owners: list[Owner]

    def pieces(self, wanted: Callable[[Owner], bool]) -> set[int]:
        """The pieces with at least one byte that is `wanted`: one by one, slowly."""
        size = self.map.piece_bytes
        return {at // size for at, owner in enumerate(self.owners) if wanted(owner)}


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Parts of a model, and other files between them; after each, as in hybrid torrents, padding."""
    piece_bytes = draw(st.integers(1, 24))
    is_padded = draw(st.booleans())
    sizes = draw(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=5))
    owners: list[Owner] = []
    parts: list[Part] = []
    for size, is_model in sizes:
        if is_padded:
            owners += [None] * (-len(owners) % piece_bytes)
        if is_model:
            owners_of_part = [(len(parts), i) for i in range(size)]
            parts.append(Part(len(owners), size))
            owners += owners_of_part
        else:
            owners += [None] * size
    return Layout(PieceMap(piece_bytes, len(owners), tuple(parts)), owners)


def tensors(draw: st.DrawFn, part: int, num_bytes: int) -> list[ByteRange]:
    """Ranges as in a GGUF file: one after another from a header on, each at an aligned place."""
    alignment = draw(st.sampled_from([1, 4, 8, 32]))
    found = []
    at = draw(st.integers(0, 20))
    while True:
        start = -(-at // alignment) * alignment
        at = start + draw(st.integers(0, 24))
        if at > num_bytes or len(found) == 8:
            return found
        found.append(ByteRange(part, start, at))


@st.composite
def wanted(draw: st.DrawFn) -> tuple[Layout, list[ByteRange]]:
    """A layout, and some tensors in it or just any ranges; maybe none, maybe empty ones."""
    layout = draw(layouts())
    ranges: list[ByteRange] = []
    for number, part in enumerate(layout.map.parts):
        if draw(st.booleans()):
            found = tensors(draw, number, part.num_bytes)
            ranges += [r for r in found if draw(st.booleans())]
        else:
            for _ in range(draw(st.integers(0, 3))):
                start = draw(st.integers(0, part.num_bytes))
                ranges.append(ByteRange(number, start, draw(st.integers(start, part.num_bytes))))
    return layout, draw(st.permutations(ranges))


def covered(ranges: tuple[ByteRange, ...] | list[ByteRange]) -> set[Owner]:
    return {(r.file, byte) for r in ranges for byte in range(r.start, r.end)}


@given(wanted())
def test_pieces_are_those_that_hold_a_byte(case: tuple[Layout, list[ByteRange]]) -> None:
    """Not one more, not one less, than looking at every byte finds."""
    layout, ranges = case
    bytes_ = covered(ranges)
    assert layout.map.pieces(ranges) == layout.pieces(lambda owner: owner in bytes_)


@given(wanted())
def test_bytes_of_the_pieces_of_a_range_hold_the_range(
    case: tuple[Layout, list[ByteRange]],
) -> None:
    """There and back again gives at least what was asked for, and only what those pieces hold."""
    layout, ranges = case
    pieces = layout.map.pieces(ranges)
    back = layout.map.byte_ranges(pieces)
    assert back == merge(back)
    assert covered(ranges) <= covered(back)
    size = layout.map.piece_bytes
    held = {owner for at, owner in enumerate(layout.owners) if at // size in pieces and owner}
    assert covered(back) == held


@given(layouts(), st.data())
def test_bytes_of_any_pieces(layout: Layout, data: st.DataObject) -> None:
    """Padding and other files are nobody's bytes; the pieces come in any order, even twice."""
    pieces = data.draw(st.lists(st.integers(0, max(0, layout.map.num_pieces - 1)), max_size=12))
    size = layout.map.piece_bytes
    held = {owner for at, owner in enumerate(layout.owners) if at // size in pieces and owner}
    assert covered(layout.map.byte_ranges(pieces)) == held


@given(wanted(), st.data())
def test_a_range_is_there_when_each_of_its_bytes_is(
    case: tuple[Layout, list[ByteRange]], data: st.DataObject
) -> None:
    layout, ranges = case
    have = data.draw(st.sets(st.integers(0, max(0, layout.map.num_pieces - 1))))
    missing = layout.pieces(lambda owner: owner in covered(ranges)) - have
    assert layout.map.contains(ranges, have) == (not missing)


@given(layouts())
def test_pieces_lie_side_by_side(layout: Layout) -> None:
    """From the first byte to the last, all of one size but the last."""
    map_ = layout.map
    ends = [map_.piece_range(piece) for piece in range(map_.num_pieces)]
    assert [at for start, end in ends for at in range(start, end)] == list(
        range(len(layout.owners))
    )
    assert all(end - start == map_.piece_bytes for start, end in ends[:-1])


@given(layouts(), st.integers(1, 40))
def test_a_range_past_its_part_is_no_range(layout: Layout, beyond: int) -> None:
    """Otherwise bytes of the next file would pass as the model's."""
    for number, part in enumerate(layout.map.parts):
        past = ByteRange(number, part.num_bytes - 1, part.num_bytes + beyond)
        with pytest.raises(ValueError, match="past"):
            layout.map.pieces([past])


@given(st.integers(1, 1 << 44))
def test_piece_sizes_are_powers_of_two_and_pieces_are_few(total_bytes: int) -> None:
    """At most 2,048 as far as the largest size reaches; never larger than it takes for that."""
    size = choose_piece_bytes(total_bytes)
    assert MIN_PIECE_BYTES <= size <= MAX_PIECE_BYTES and size & (size - 1) == 0
    if total_bytes <= 2048 * MAX_PIECE_BYTES:
        assert -(-total_bytes // size) <= 2048
    if size > MIN_PIECE_BYTES:
        assert -(-total_bytes // (size // 2)) > 2048


def test_piece_sizes_of_models_as_they_are() -> None:
    """From a model that fits into a small torrent to one that fills a disk."""
    expected = {
        MIB: 256 * KIB,
        512 * MIB: 256 * KIB,
        512 * MIB + 1: 512 * KIB,
        4 * GIB: 2 * MIB,
        40 * GIB: 32 * MIB,
        700 * GIB: 64 * MIB,
    }
    assert {size: choose_piece_bytes(size) for size in expected} == expected


# Against libtorrent: torrents of files that stand in no relation to the size of a piece.

_PIECE_BYTES = [16 * KIB, 32 * KIB, 64 * KIB]


@st.composite
def real_torrents(draw: st.DrawFn) -> tuple[Metainfo, lt.torrent_info, bool]:
    """A model in one to four parts, with other files between them; hybrid and so padded, or v1."""
    piece_bytes = draw(st.sampled_from(_PIECE_BYTES))
    sizes = st.integers(1, 5 * piece_bytes)
    num_parts = draw(st.integers(1, 4))
    files: list[FileEntry] = []
    for number in range(1, num_parts + 1):
        stem = b"model-%05d" % number
        if draw(st.booleans()):
            files.append(([stem + b"-a.txt"], draw(sizes)))
        files.append(([b"%s-of-%05d.gguf" % (stem, num_parts)], draw(sizes)))
        if draw(st.booleans()):
            files.append(([stem + b"-z.txt"], draw(sizes)))
    is_padded = draw(st.booleans())
    make = info_hybrid if is_padded else info_v1
    raw = torrent(make(b"model", files, piece_bytes))
    info = lt.load_torrent_buffer(raw).ti
    assert info is not None
    return read_metainfo(raw, source="test"), info, is_padded


@settings(max_examples=60)
@given(real_torrents(), st.data())
def test_pieces_are_where_libtorrent_finds_them(
    case: tuple[Metainfo, lt.torrent_info, bool], data: st.DataObject
) -> None:
    """The parts in their order, their places, and the pieces of any range, as `map_file` says."""
    metainfo, info, is_padded = case
    layout = info.layout()
    assert metainfo.pieces.num_pieces == layout.num_pieces()
    for number, file in enumerate(metainfo.files):
        assert layout.file_name(file.index).startswith(f"model-{number + 1:05d}-of-")
        size = layout.file_size(file.index)
        assert file.part == Part(layout.file_offset(file.index), size)
        if is_padded:
            assert file.part.start % metainfo.pieces.piece_bytes == 0
            assert layout.piece_index_at_file(file.index) == min(
                metainfo.pieces.pieces([ByteRange(number, 0, 1)])
            )
        start = data.draw(st.integers(0, size - 1))
        end = data.draw(st.integers(start + 1, size))
        first, last = info.map_file(file.index, start, 1), info.map_file(file.index, end - 1, 1)
        found = metainfo.pieces.pieces([ByteRange(number, start, end)])
        assert found == set(range(first.piece, last.piece + 1))


@settings(max_examples=60)
@given(real_torrents())
def test_bytes_of_a_piece_are_those_that_libtorrent_writes(
    case: tuple[Metainfo, lt.torrent_info, bool],
) -> None:
    """Each piece as `map_block` cuts it into files, without padding and without files of others."""
    metainfo, info, _ = case
    numbers = {file.index: number for number, file in enumerate(metainfo.files)}
    for piece in range(metainfo.pieces.num_pieces):
        start, end = metainfo.pieces.piece_range(piece)
        assert end - start == info.piece_size(piece)
        slices = info.map_block(piece, 0, end - start)
        expected = merge(
            ByteRange(numbers[s.file_index], s.offset, s.offset + s.size)
            for s in slices
            if s.file_index in numbers
        )
        assert metainfo.pieces.byte_ranges([piece]) == expected
