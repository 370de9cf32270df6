"""What happens while an engine is installed, for whoever shows it."""

from collections.abc import Callable
from typing import NamedTuple


class Fetching(NamedTuple):
    """The package client has been asked for an archive."""

    package: str
    num_bytes: int


class Trying(NamedTuple):
    """An engine that was unpacked computes, in a process of its own."""

    title: str


class Measuring(NamedTuple):
    """It is compared with the bundled library: the default model in both, in turns."""

    title: str


Event = Fetching | Trying | Measuring
OnEvent = Callable[[Event], None]
