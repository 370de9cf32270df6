"""What happens to a route while a text goes through it, for whoever shows it."""

from dataclasses import dataclass

from baremetalrt.core.spans import BlockSpan


@dataclass(frozen=True)
class StageLost:
    """A peer does not compute its blocks any more; why."""

    peer: str
    blocks: BlockSpan
    why: str


@dataclass(frozen=True)
class StageReplaced:
    """Another peer computes blocks that were lost."""

    peer: str
    blocks: BlockSpan
