"""What happens while a model is fetched, loaded and asked, for whoever shows it.

Named tuples: `bmrt run` is judged by its first token, and dataclasses take ten times as long to define.
"""

from collections.abc import Callable
from typing import NamedTuple


class Loading(NamedTuple):
    """A model that is here begins to load."""

    name: str


class Asking(NamedTuple):
    """A torrent is being looked for by what names it."""

    reference: str


class Checking(NamedTuple):
    """What is on disk of a torrent is compared with what was verified."""


class Fetching(NamedTuple):
    """How a torrent is doing. Rates are bytes per second.

    `left_s` is None when nobody can say; `blocks_here` before the header says what blocks there are;
    `last_piece_at`, by `time.perf_counter`, while nothing has come.
    """

    name: str
    wanted_bytes: int
    have_bytes: int
    download_rate: int
    upload_rate: int
    num_peers: int
    left_s: float | None
    blocks_here: tuple[bool, ...] | None
    is_complete: bool
    last_piece_at: float | None


class Loaded(NamedTuple):
    """A model can be asked. `name`, how many tokens a text may have, and whether peers compute it."""

    name: str
    context_limit: int
    is_over_peers: bool = False


class Chosen(NamedTuple):
    """Of several files that a name may mean, this one is fetched."""

    name: str
    num_bytes: int


class FoundNearby(NamedTuple):
    """A machine on the local network says that it has what is wanted: it is asked first."""

    name: str
    peer: str


class LeftNearby(NamedTuple):
    """What a machine nearby offered did not come of it, and why; somebody else is asked."""

    peer: str
    why: str


class Hashing(NamedTuple):
    """A file is read to the end, to make its torrent."""

    name: str


class Rotten(NamedTuple):
    """Bits of a model have changed on disk since it was verified."""

    name: str
    num_pieces: int


Event = (
    Loading
    | Asking
    | Checking
    | Chosen
    | FoundNearby
    | LeftNearby
    | Fetching
    | Loaded
    | Hashing
    | Rotten
)
OnEvent = Callable[[Event], None]


def ignore(_event: object) -> None:
    """For whoever does not want to know."""
