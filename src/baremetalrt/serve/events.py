"""What happens while a server begins, for whoever shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from baremetalrt.hosting import events as hosting


@dataclass(frozen=True)
class Exposed:
    """Others than this machine reach the server, and it asks nobody for a key."""

    host: str
    port: int


@dataclass(frozen=True)
class Listening:
    """The server answers, at this address."""

    host: str
    port: int
    # over TLS, and what clients have to trust for it, where that is known
    is_secure: bool = False
    authority: Path | None = None


@dataclass(frozen=True)
class Preparing:
    """A model computes the beginning that everybody may know, before anybody asks."""

    model: str
    num_tokens: int


@dataclass(frozen=True)
class Waiting:
    """A model that does not fit beside the others: it is loaded in their place when it is asked for."""

    model: str


Event = hosting.Event | Exposed | Listening | Preparing | Waiting
OnEvent = Callable[[Event], None]
