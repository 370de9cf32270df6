"""How the sessions of one step are laid out for attention, and what shape of graph that needs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from baremetalrt.blocks.extents import CELL_QUANTUM, CachedSequence


@dataclass(frozen=True)
class StreamGroup:
    """Sessions whose cache extents lie equally far apart, so that one attention serves them all.

    All counts are in cells (tokens) of the KV cache; `first_cell` counts from the step's base cell.
    """

    first_cell: int
    stride: int
    num_streams: int
    num_cells: int
    window_start: int


@dataclass(frozen=True)
class StepShape:
    """Everything that a graph depends on: steps of equal shape run the same graph.

    Every session contributes `tokens_each` tokens, and the last `outputs_each` of them are read: as
    logits where the span ends the model, as rows of model width elsewhere.
    """

    tokens_each: int
    outputs_each: int
    groups: tuple[StreamGroup, ...]

    @property
    def num_streams(self) -> int:
        return sum(g.num_streams for g in self.groups)

    @property
    def num_tokens(self) -> int:
        return self.num_streams * self.tokens_each

    @property
    def num_outputs(self) -> int:
        return self.num_streams * self.outputs_each


def group_streams(
    sequences: Sequence[CachedSequence], tokens_each: int, window: int, num_cells: int
) -> tuple[StreamGroup, ...]:
    """Sequences, sorted by first cell, in as few groups of equal distance as one pass finds.

    Neighbours that fill their extents very differently are kept apart: a group reads as many cells
    of each as its longest needs, and never past the end of a cache of `num_cells`.
    """
    groups: list[list[CachedSequence]] = []
    for s in sequences:
        if groups and _joins(groups[-1], s, tokens_each, num_cells):
            groups[-1].append(s)
        else:
            groups.append([s])
    base = sequences[0].first_cell
    return tuple(_stream_group(members, base, tokens_each, window) for members in groups)


def last_quantum(sequence: CachedSequence, tokens_each: int) -> int:
    """The last quantum of cells that a step reads."""
    return (len(sequence.tokens) + tokens_each - 1) // CELL_QUANTUM


def window_start(sequence: CachedSequence, window: int) -> int:
    """The cell where a sliding window begins at the latest, in whole quanta."""
    if not window:
        return 0
    return max(0, sequence.length - window + 1) // CELL_QUANTUM * CELL_QUANTUM


def _end(sequence: CachedSequence, tokens_each: int) -> int:
    return (last_quantum(sequence, tokens_each) + 1) * CELL_QUANTUM


def _joins(
    members: list[CachedSequence], new: CachedSequence, tokens_each: int, num_cells: int
) -> bool:
    stride = new.first_cell - members[-1].first_cell
    if len(members) > 1 and stride != members[1].first_cell - members[0].first_cell:
        return False
    ends = [_end(s, tokens_each) for s in (*members, new)]
    return max(ends) <= 2 * min(ends) and new.first_cell + max(ends) <= num_cells


def _stream_group(
    members: list[CachedSequence], base: int, tokens_each: int, window: int
) -> StreamGroup:
    return StreamGroup(
        first_cell=members[0].first_cell - base,
        stride=members[1].first_cell - members[0].first_cell if len(members) > 1 else 0,
        num_streams=len(members),
        num_cells=max(_end(s, tokens_each) for s in members),
        window_start=min(window_start(s, window) for s in members),
    )
