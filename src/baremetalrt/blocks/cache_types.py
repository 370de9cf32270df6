"""In which types keys and values are kept. Light: parsed before the engine is imported."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

CacheType = Literal["f16", "q8_0", "q4_0"]
CACHE_TYPES: Final[tuple[CacheType, ...]] = get_args(CacheType)


@dataclass(frozen=True, kw_only=True)
class CacheTypes:
    """Keys and values apart: keys suffer more from fewer bits."""

    keys: CacheType = "f16"
    values: CacheType = "f16"


F16_CACHE: Final = CacheTypes()
