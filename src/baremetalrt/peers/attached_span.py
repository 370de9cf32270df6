"""A stage of a chain as its caller sees it: what it was told, what it said, and how far it is."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from baremetalrt.peers.remote_span import RemoteSpan

# How long a stage may get nowhere: so many times what its tokens should take, within these bounds.
_SLACK: Final = 8.0
_SHORTEST_LAG_S: Final = 120.0
_LONGEST_LAG_S: Final = 900.0
# What a stage says that answers, and hosts other blocks by now.
NOT_HOSTED: Final = "span.not-hosted"


class Blame(Enum):
    """Whose fault it is, as a stage sees it."""

    HERE = auto()
    PREVIOUS = auto()
    NEXT = auto()


@dataclass(frozen=True)
class Fault:
    """What a stage could not do, and why."""

    code: str
    message: str
    blame: Blame
    epoch: int

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(eq=False)
class AttachedSpan:
    """A span of a peer with a text in it.

    `length`: tokens of the text that it has, and `is_complete`: it kept all rows of it, both as it says.
    `has_moved`: it is lost because it hosts other blocks now. `follows`: who it passes its rows to.
    `pending`: the commands that it has not answered.
    `since`: when it was last seen to get on, or was given something to do; None while there is nothing.
    """

    span: RemoteSpan
    lost: str | None = None
    has_moved: bool = False
    follows: "AttachedSpan | None" = field(default=None, repr=False)
    length: int = 0
    is_complete: bool = True
    faults: list[Fault] = field(default_factory=list)
    num_sent: int = 0
    num_probes: int = 0
    num_reports: int = 0
    num_answered: int = 0
    pending: set[int] = field(default_factory=set)
    num_probe_answers: int = 0
    num_unanswered: int = 0
    seen: tuple[int, int] = (0, 0)
    since: float | None = None
    slowest_token_s: float = 0.0

    @property
    def milestone(self) -> tuple[int, int]:
        """What grows as long as it gets on."""
        return self.num_answered, self.length

    def longest_lag_s(self, num_tokens: int) -> float:
        """How long it may get nowhere, in a step of so many tokens."""
        token_s = max(self.span.token_s or 0.0, self.slowest_token_s)
        return min(max(_SLACK * token_s * num_tokens, _SHORTEST_LAG_S), _LONGEST_LAG_S)

    def note_progress(self, *, is_busy: bool, now: float) -> None:
        """It got on since it was looked at, or has nothing to do."""
        num_tokens = self.length - self.seen[1]
        if self.since is not None and num_tokens > 0:
            self.slowest_token_s = max(self.slowest_token_s, (now - self.since) / num_tokens)
        self.seen, self.since = self.milestone, now if is_busy else None
