"""Where a model is to run, and who is asked. Light: parsed before anything heavy is imported."""

from dataclasses import dataclass
from typing import Literal

from baremetalrt.core.spans import BlockSpan
from baremetalrt.peers.activations import Activations as Activations

RouteKind = Literal["auto", "local", "lan", "swarm"]


@dataclass(frozen=True, kw_only=True)
class RouteOptions:
    """`auto`: here, unless the model does not fit, or peers are clearly faster.

    `via`: `HOST:PORT` of peers that are asked instead of those on the local network. `activations`: how
    rows travel between peers.
    """

    kind: RouteKind = "auto"
    via: tuple[str, ...] = ()
    activations: Activations = "f32"

    @property
    def is_over_peers(self) -> bool:
        """Whether peers are asked for in so many words."""
        return bool(self.via) or self.kind in ("lan", "swarm")


@dataclass(frozen=True, kw_only=True)
class ShareOptions:
    """What a command says of sharing; None leaves it to `config.toml`.

    `blocks`: host these of the one model that is named. `memory`: bytes that are given, no more.
    `listen`: `HOST:PORT` where peers reach this machine.
    """

    enabled: bool | None = None
    blocks: BlockSpan | None = None
    memory: int | None = None
    listen: str | None = None
