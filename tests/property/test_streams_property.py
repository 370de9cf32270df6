"""Sessions of one step are grouped for attention without losing or misreading any."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.blocks.extents import CELL_QUANTUM, CachedSequence
from baremetalrt.blocks.streams import StreamGroup, group_streams

Step = tuple[list[CachedSequence], int, int, int]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Sequences in order of their cells, tokens of each, window, cells of the cache."""
    tokens_each = draw(st.sampled_from([1, 1, 2, 64, 200]))
    cell, sequences = 0, []
    for _ in range(draw(st.integers(1, 8))):
        cell += CELL_QUANTUM * draw(st.sampled_from([0, 0, 0, 1, 2]))
        capacity = CELL_QUANTUM * draw(st.integers(1, 4))
        length = draw(st.integers(0, capacity - tokens_each))
        sequences.append(CachedSequence(cell, capacity, array("i", bytes(4 * length))))
        cell += capacity
    num_cells = cell + CELL_QUANTUM * draw(st.integers(0, 3))
    return sequences, tokens_each, draw(st.sampled_from([0, 1, 64, 300])), num_cells


def streams(groups: tuple[StreamGroup, ...]) -> list[tuple[int, StreamGroup]]:
    """Every stream as its first cell, counted from the base, and its group."""
    return [(g.first_cell + i * g.stride, g) for g in groups for i in range(g.num_streams)]


@given(steps())
def test_every_sequence_is_in_one_group_where_its_cells_are(step: Step) -> None:
    """First cell and stride of the groups lead to each sequence once, in order."""
    sequences, tokens_each, window, num_cells = step
    groups = group_streams(sequences, tokens_each, window, num_cells)
    base = sequences[0].first_cell
    assert [base + cell for cell, _ in streams(groups)] == [s.first_cell for s in sequences]
    assert all((g.stride == 0) == (g.num_streams == 1) for g in groups)


@given(steps())
def test_a_group_reads_all_that_its_sequences_need(step: Step) -> None:
    """Attention sees every token up to the newest, and back to the begin of the oldest window."""
    sequences, tokens_each, window, num_cells = step
    groups = group_streams(sequences, tokens_each, window, num_cells)
    for s, (_, group) in zip(sequences, streams(groups), strict=True):
        assert group.num_cells >= s.length + tokens_each
        first_seen = max(0, s.length - window + 1) if window else 0
        assert 0 <= group.window_start <= first_seen
        assert group.window_start % CELL_QUANTUM == group.num_cells % CELL_QUANTUM == 0


@given(steps())
def test_no_group_reads_past_the_cache(step: Step) -> None:
    """The last stream of a group, read as far as its longest needs, still ends within the cache."""
    sequences, tokens_each, window, num_cells = step
    groups = group_streams(sequences, tokens_each, window, num_cells)
    for cell, group in streams(groups):
        assert sequences[0].first_cell + cell + group.num_cells <= num_cells


@given(steps())
def test_no_sequence_reads_much_more_than_it_needs(step: Step) -> None:
    """A short text is not made to read more than double for a long neighbour's sake."""
    sequences, tokens_each, window, num_cells = step
    groups = group_streams(sequences, tokens_each, window, num_cells)
    for s, (_, group) in zip(sequences, streams(groups), strict=True):
        needed = -(-(s.length + tokens_each) // CELL_QUANTUM) * CELL_QUANTUM
        assert group.num_cells <= 2 * needed


def test_equal_neighbours_are_one_group() -> None:
    """Four sessions of one size, side by side, need one attention."""
    sequences = [CachedSequence(512 * i, 512, array("i", bytes(4 * 100))) for i in range(4)]
    (group,) = group_streams(sequences, 1, 0, 2048)
    assert group == StreamGroup(
        first_cell=0, stride=512, num_streams=4, num_cells=256, window_start=0
    )
