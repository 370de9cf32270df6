"""What happens while a model runs on peers, for whoever shows it."""

from collections.abc import Callable
from dataclasses import dataclass

from baremetalrt.node import events as node
from baremetalrt.peers.events import StageLost as StageLost
from baremetalrt.peers.events import StageReplaced as StageReplaced


@dataclass(frozen=True)
class Comparing:
    """Peers are asked whether they would answer faster than this machine."""


@dataclass(frozen=True)
class PeersLeft:
    """Peers are not asked after all, though they might have been; why."""

    reason: str


@dataclass(frozen=True)
class NotYet:
    """A model cannot be answered over peers at the moment; it is tried again."""

    name: str
    reason: str


Event = node.Event | Comparing | PeersLeft | NotYet | StageLost | StageReplaced
OnEvent = Callable[[Event], None]
