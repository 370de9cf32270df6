"""Ranges of bytes and of blocks."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.spans import BlockSpan, ByteRange, merge


@st.composite
def byte_ranges(draw: st.DrawFn) -> ByteRange:
    start = draw(st.integers(0, 60))
    return ByteRange(draw(st.integers(0, 2)), start, start + draw(st.integers(0, 12)))


RANGES = st.lists(byte_ranges(), max_size=12)


def covered(ranges: tuple[ByteRange, ...] | list[ByteRange]) -> set[tuple[int, int]]:
    return {(r.file, byte) for r in ranges for byte in range(r.start, r.end)}


@given(RANGES)
def test_merging_covers_the_same_bytes(ranges: list[ByteRange]) -> None:
    """No byte is lost, and none is fetched that nobody asked for."""
    assert covered(merge(ranges)) == covered(ranges)


@given(RANGES, st.integers(0, 8))
def test_merged_ranges_are_sorted_and_as_few_as_possible(
    ranges: list[ByteRange], gap_bytes: int
) -> None:
    """Neighbours in one file are further apart than the gap; no range is empty."""
    merged = merge(ranges, gap_bytes=gap_bytes)
    assert all(len(r) > 0 for r in merged)
    for a, b in pairwise(merged):
        assert a.file < b.file or (a.file == b.file and a.end + gap_bytes < b.start)


@given(RANGES, st.integers(0, 8))
def test_only_holes_up_to_the_gap_are_closed(ranges: list[ByteRange], gap_bytes: int) -> None:
    """Every byte that merging adds lies in a hole between two wanted ones, and the hole is small."""
    wanted = covered(ranges)
    for file, byte in covered(merge(ranges, gap_bytes=gap_bytes)) - wanted:
        before = max(b for f, b in wanted if f == file and b < byte)
        after = min(b for f, b in wanted if f == file and b > byte)
        assert after - before - 1 <= gap_bytes


@given(RANGES, st.integers(0, 8))
def test_merging_twice_changes_nothing(ranges: list[ByteRange], gap_bytes: int) -> None:
    """What is merged stays as it is."""
    once = merge(ranges, gap_bytes=gap_bytes)
    assert merge(once, gap_bytes=gap_bytes) == once


@given(st.integers(-3, 20), st.integers(-3, 20))
def test_a_block_span_is_a_half_open_range(start: int, end: int) -> None:
    """A span counts, iterates and contains like a range; an empty or negative one cannot be made."""
    if not 0 <= start < end:
        try:
            BlockSpan(start, end)
        except ValueError:
            return
        raise AssertionError("a span without blocks was made")
    span, expected = BlockSpan(start, end), range(start, end)
    assert list(span) == list(expected) and len(span) == len(expected)
    assert all((block in span) == (block in expected) for block in range(-4, 24))
    assert str(span) == f"{start}:{end}"
