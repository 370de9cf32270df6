"""Which weights of a span stay in memory, and which are read from disk again for every step. Pure.

Every step needs every block once, in the same order. Whatever is kept saves its bytes in each step,
whichever block it is; what is evicted by last use would be evicted just before it is needed. So a part
of the blocks stays for good, and the others take turns in a few slots: while one computes, the next is
read into another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import MIB, format_bytes

# Reads of less than this are no longer at the disk's full rate, and a step of its own for so little
# costs more than it saves.
_MIN_PART_BYTES: Final = 16 * MIB
# More slots than two only help where reads are so short that the next must already wait.
_NUM_SLOTS: Final = 2


@dataclass(frozen=True)
class HeadRows:
    """Rows `[start, end)` of the head's matrix: what they give is one stretch of the logits."""

    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """What is computed at once: blocks, or rows of the head. `slot` is None where it stays in memory."""

    work: BlockSpan | HeadRows
    num_bytes: int
    slot: int | None = None


@dataclass(frozen=True)
class HeadSize:
    """The matrix of a head: how many rows of how many bytes; it is parted at multiples of `quantum`.

    A stretch of it takes up to `padding_bytes` more in its slot.
    """

    num_rows: int
    row_bytes: int
    quantum: int
    padding_bytes: int = 0


@dataclass(frozen=True)
class ResidencyPlan:
    """All parts of a span in order of execution. Without any in a slot, everything stays in memory."""

    parts: tuple[Part, ...]
    num_slots: int
    slot_bytes: int

    @property
    def pinned_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts if part.slot is None)

    @property
    def streamed_bytes(self) -> int:
        """What every step reads."""
        return sum(part.num_bytes for part in self.parts if part.slot is not None)

    @property
    def head_rows(self) -> HeadRows:
        """The head as a whole, where it stays."""
        work = self.parts[-1].work
        assert isinstance(work, HeadRows)
        return work

    @property
    def keeps_head(self) -> bool:
        last = self.parts[-1]
        return isinstance(last.work, HeadRows) and last.slot is None

    def keeps(self, block: int) -> bool:
        """Whether the weights of a block stay in memory."""
        return any(
            part.slot is None and isinstance(part.work, BlockSpan) and block in part.work
            for part in self.parts
        )

    @property
    def streamed(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.slot is not None)

    def within(
        self, blocks: BlockSpan, *, has_head: bool
    ) -> Iterator[tuple[Part, BlockSpan | HeadRows]]:
        """The parts that have some of these blocks, and what of each is asked for."""
        for part in self.parts:
            if isinstance(part.work, HeadRows):
                if has_head:
                    yield part, part.work
                continue
            start, end = max(part.work.start, blocks.start), min(part.work.end, blocks.end)
            if start < end:
                yield part, BlockSpan(start, end)


def plan_residency(
    first_block: int,
    block_bytes: Sequence[int],
    head: HeadSize | None,
    budget_bytes: int,
    *,
    min_part_bytes: int = _MIN_PART_BYTES,
) -> ResidencyPlan:
    """What stays of blocks of these sizes and of a head, and what takes turns, in `budget_bytes`.

    Raises:
        CapacityError: the largest block alone does not fit.
    """
    head_bytes = head.num_rows * head.row_bytes if head else 0
    if sum(block_bytes) + head_bytes <= budget_bytes:
        return _resident(first_block, block_bytes, head)
    largest = max(block_bytes)
    if largest > budget_bytes:
        raise CapacityError(
            f"the largest block takes {format_bytes(largest)}, {format_bytes(budget_bytes)} are there "
            "for weights",
            code="memory.block",
            needed=largest,
            available=budget_bytes,
            hint="give it more memory, or run its blocks on several machines",
        )
    slot_bytes, num_slots = _slots(largest, budget_bytes, min_part_bytes)
    left = budget_bytes - num_slots * slot_bytes
    keeps_head = head is not None and head_bytes <= left
    if keeps_head:
        left -= head_bytes
    pinned = _spread(block_bytes, left)
    works = list(_block_parts(first_block, block_bytes, pinned, slot_bytes))
    parts: list[Part] = []
    turn = 0
    for work, num_bytes, stays in works:
        parts.append(Part(work, num_bytes, None if stays else turn % num_slots))
        turn += not stays
    if head is not None:
        for rows in [HeadRows(0, head.num_rows)] if keeps_head else _cut(head, slot_bytes):
            num_bytes = (rows.end - rows.start) * head.row_bytes
            parts.append(Part(rows, num_bytes, None if keeps_head else turn % num_slots))
            turn += not keeps_head
    return ResidencyPlan(tuple(parts), num_slots, slot_bytes)


def plan_in_blocks(
    first_block: int, block_bytes: Sequence[int], head: HeadSize | None
) -> ResidencyPlan:
    """Everything stays, and each block is computed by itself: what it chooses is brought in between."""
    works = [
        Part(BlockSpan(first_block + i, first_block + i + 1), size)
        for i, size in enumerate(block_bytes)
    ]
    if head is not None:
        works.append(Part(HeadRows(0, head.num_rows), head.num_rows * head.row_bytes))
    return ResidencyPlan(tuple(works), 0, 0)


def _resident(first_block: int, block_bytes: Sequence[int], head: HeadSize | None) -> ResidencyPlan:
    blocks = BlockSpan(first_block, first_block + len(block_bytes))
    parts = [Part(blocks, sum(block_bytes))]
    if head is not None:
        parts.append(Part(HeadRows(0, head.num_rows), head.num_rows * head.row_bytes))
    return ResidencyPlan(tuple(parts), 0, 0)


def _slots(largest: int, budget_bytes: int, min_part_bytes: int) -> tuple[int, int]:
    """The size of a slot, and how many: one, where two of the largest block are too many."""
    if _NUM_SLOTS * largest > budget_bytes:
        return largest, 1
    # Small blocks are read several at a time, as long as that leaves most of the budget to what stays.
    return max(largest, min(min_part_bytes, budget_bytes // (4 * _NUM_SLOTS))), _NUM_SLOTS


def _spread(block_bytes: Sequence[int], budget_bytes: int) -> list[bool]:
    """Which blocks stay: as many as fit, evenly between the others, so that reading never waits."""
    share = budget_bytes / sum(block_bytes)
    stays, passed, kept = [], 0, 0
    for size in block_bytes:
        passed += size
        keep = kept + size <= min(budget_bytes, share * passed + size / 2)
        kept += size if keep else 0
        stays.append(keep)
    # What is left over keeps whichever still fit.
    for i, size in enumerate(block_bytes):
        if not stays[i] and kept + size <= budget_bytes:
            stays[i] = True
            kept += size
    return stays


def _block_parts(
    first_block: int, block_bytes: Sequence[int], stays: Sequence[bool], slot_bytes: int
) -> Iterator[tuple[BlockSpan, int, bool]]:
    """Neighbours that stay are computed at once, and so are those that fit into a slot together."""
    start = 0
    for i in range(1, len(block_bytes) + 1):
        size = sum(block_bytes[start:i])
        is_last = i == len(block_bytes)
        if (
            is_last
            or stays[i] != stays[start]
            or (not stays[start] and size + block_bytes[i] > slot_bytes)
        ):
            yield BlockSpan(first_block + start, first_block + i), size, stays[start]
            start = i


def _cut(head: HeadSize, slot_bytes: int) -> Iterator[HeadRows]:
    """The head in stretches of rows that fit into a slot, about equally long."""
    room_bytes = slot_bytes - head.padding_bytes
    most = max(1, room_bytes // (head.row_bytes * head.quantum)) * head.quantum
    for start in range(0, head.num_rows, most):
        yield HeadRows(start, min(start + most, head.num_rows))
