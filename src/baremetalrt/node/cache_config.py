"""What becomes of texts that ended, for their beginnings: the section `[cache]` of `config.toml`."""

from dataclasses import dataclass
from typing import Final

from baremetalrt.core.settings import Bytes, Count, load_settings
from baremetalrt.core.units import GIB

SECTION: Final = "cache"


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """`disk`: texts of this user, and of the server's keys, are kept on disk, and outlive a restart.

    `budget`: what they may take there, in bytes; never more than a tenth of what the disk has left.
    `idle_minutes`: texts that nobody used for so long leave memory, 0 for never.
    """

    disk: bool = True
    budget: Bytes = 4 * GIB
    idle_minutes: Count = 10


def load_cache_config() -> CacheConfig:
    """What `config.toml` says; raises like `load_settings`."""
    return load_settings(SECTION, CacheConfig)
