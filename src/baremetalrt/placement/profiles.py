"""What placement knows about a model, devices, and the links between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from baremetalrt.core.spans import BlockSpan


@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """Sizes of a model.

    `entry_bytes` (the embedding) belongs to the first block's device, `head_bytes` to the last one's;
    `shared_bytes` of both are the same bytes, where one device holds them. `cell_bytes` are the keys and
    values of one token in one block. `row_bytes` go from stage to stage for each token, and are kept
    where they come from, for a stage that replaces the next one; `answer_bytes` go from the last stage to
    the caller.
    """

    block_bytes: tuple[int, ...]
    entry_bytes: int
    head_bytes: int
    shared_bytes: int = 0
    cell_bytes: int
    row_bytes: int
    answer_bytes: int

    @property
    def num_blocks(self) -> int:
        return len(self.block_bytes)


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """A place to compute: what it may hold, and how fast it was seen to be.

    `byte_s`: seconds for each byte of weights, keys and values that a decode step reads, which is what
    its time goes by. `step_s`: seconds for each step besides. `disk_byte_s`: seconds for each byte of
    weights that has no room and is read from disk in every step; None where that is not possible.
    """

    id: str
    budget_bytes: int
    byte_s: float
    step_s: float = 0.0
    disk_byte_s: float | None = None


@dataclass(frozen=True)
class Link:
    """One way from machine to machine."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: int) -> float:
        return self.latency_s + num_bytes / self.bytes_per_s


# From memory to memory within a machine. Nobody measures it: that of an old bus.
LOCAL_LINK: Final = Link(latency_s=50e-6, bytes_per_s=4e9)


@dataclass(frozen=True)
class Network:
    """Links between devices, by (from, to); `default` is for pairs that nobody has measured."""

    default: Link
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)

    def seconds(self, source: str, target: str, num_bytes: int) -> float:
        """From one device to another; nothing from a device to itself."""
        if source == target:
            return 0.0
        return self.links.get((source, target), self.default).seconds(num_bytes)


@dataclass(frozen=True)
class Demand:
    """What the cache has room for: so many sessions of so many tokens."""

    context: int
    num_sessions: int = 1


class Sizes:
    """Bytes of every span of a model under a demand, by differences of sums."""

    def __init__(self, model: ModelProfile, demand: Demand) -> None:
        self._model = model
        self._kept_bytes = model.row_bytes * demand.context * demand.num_sessions
        cells_bytes = model.cell_bytes * demand.context
        # Keys and values of all sessions, in one block.
        self.cells_bytes = cells_bytes * demand.num_sessions
        held = [b + self.cells_bytes for b in model.block_bytes]
        # A step of one session reads its own keys and values alone.
        read = [b + cells_bytes for b in model.block_bytes]
        self.held = (0, *accumulate(held))
        self.read = (0, *accumulate(read))

    def held_bytes(self, span: BlockSpan) -> int:
        """What a device keeps in memory for a span."""
        model = self._model
        is_first, is_last = span.start == 0, span.end == model.num_blocks
        ends = is_first * model.entry_bytes + is_last * model.head_bytes
        shared = model.shared_bytes if is_first and is_last else 0
        kept = 0 if is_last else self._kept_bytes
        return self.held[span.end] - self.held[span.start] + ends - shared + kept

    def smallest_bytes(self, span: BlockSpan) -> int:
        """What a device keeps in memory at least, if it reads weights from disk in every step."""
        weights = self._model.block_bytes[span.start : span.end]
        cells = (span.end - span.start) * self.cells_bytes
        kept = 0 if span.end == self._model.num_blocks else self._kept_bytes
        return max(weights) + cells + kept

    def max_blocks(self, room_bytes: int) -> int:
        """How many blocks in a row fit, wherever the row begins."""
        end, longest = self._model.num_blocks, 0
        for length in range(1, end + 1):
            starts = range(end - length + 1)
            # All of them may fit where fewer do not: they pass no rows on.
            if all(self.held_bytes(BlockSpan(s, s + length)) <= room_bytes for s in starts):
                longest = length
        return longest

    def read_bytes(self, span: BlockSpan) -> int:
        """What a decode step of a span reads."""
        is_last = span.end == self._model.num_blocks
        return self.read[span.end] - self.read[span.start] + is_last * self._model.head_bytes
