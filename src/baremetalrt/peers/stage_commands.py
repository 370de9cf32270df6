"""What a chain has done for it: commands to stages, and actions of whoever drives it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from baremetalrt.blocks.steps import Reads
from baremetalrt.peers.attached_span import AttachedSpan


@dataclass(frozen=True)
class Step:
    """The next tokens; `x_TD`: their rows, where the first stage does not begin with block 0.

    It is kept as it went in: it goes in again, in the same shape, when a stage has to be rebuilt.
    """

    position: int
    tokens: Sequence[int]
    x_TD: Any
    reads: Reads

    @property
    def end(self) -> int:
        return self.position + len(self.tokens)


@dataclass(frozen=True)
class Open:
    """Begins the text. `next` takes its rows, unless they are of positions below `withheld`."""

    tokens: Sequence[int]
    capacity: int
    next: AttachedSpan | None
    epoch: int
    withheld: int


@dataclass(frozen=True)
class Forward:
    """Computes a step."""

    step: Step
    epoch: int


@dataclass(frozen=True)
class Grow:
    capacity: int


@dataclass(frozen=True)
class Truncate:
    """Forgets all but the beginning; a new epoch begins."""

    length: int
    epoch: int


@dataclass(frozen=True)
class Redirect:
    """Another stage follows; with `resend` it is given all that was passed on before."""

    next: AttachedSpan
    resend: bool
    epoch: int


Command = Open | Forward | Grow | Truncate | Redirect


@dataclass(frozen=True)
class Attach:
    """A stream to the peer of a stage is to be opened."""

    stage: AttachedSpan


@dataclass(frozen=True)
class Tell:
    """A command is to be sent; its answer comes under its number."""

    stage: AttachedSpan
    number: int
    command: Command


@dataclass(frozen=True)
class Probe:
    """A sign of life is to be asked for, and how far the stage is."""

    stage: AttachedSpan


@dataclass(frozen=True)
class Leave:
    """The stream to a peer is to be closed."""

    stage: AttachedSpan


@dataclass(frozen=True)
class Replace:
    """Somebody else is to be found for the blocks of a stage, which is lost: see `Recovery.replaced`."""

    stage: AttachedSpan
    why: str


Action = Attach | Tell | Probe | Leave | Replace
