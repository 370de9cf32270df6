"""What a host offers to its peers."""

from dataclasses import dataclass

from baremetalrt.blocks.extents import CELL_QUANTUM
from baremetalrt.blocks.span import Span
from baremetalrt.core.units import round_up
from baremetalrt.session.stage import LocalStage


@dataclass(frozen=True)
class HostProfile:
    """What a host says of itself: its release, the build of the library, what it offers, its speed.

    `byte_s`: seconds for each byte that a step reads, None before anything was measured.
    """

    release: str
    library: str
    budget_bytes: int
    byte_s: float | None


@dataclass(frozen=True)
class SeededAt:
    """By which torrent, and at which port of this machine, the weights of a span are to be had."""

    torrent: str
    port: int
    is_private: bool


@dataclass(eq=False)
class Hosted:
    """A span that others may compute with. `model` is the id of its content.

    `step_s`: seconds that a decode step of one text was measured to take. `context`: tokens of the
    longest text that is taken.
    """

    model: str
    name: str
    span: Span
    stage: LocalStage
    step_s: float
    context: int
    seeded_at: SeededAt | None = None

    @property
    def cells_per_peer(self) -> int:
        """Where there is room for several texts, that for one is always left for somebody else."""
        num_cells, longest = self.span.cache.num_cells, round_up(self.context, CELL_QUANTUM)
        return max(num_cells - longest, min(num_cells, longest))
