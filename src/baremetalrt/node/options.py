"""How a model is to be loaded and computed, with the options of answers and of swarms beside it.

Light: parsed before the engine is imported.
"""

from dataclasses import dataclass
from typing import Final

from baremetalrt.blocks.cache_types import CACHE_TYPES as CACHE_TYPES
from baremetalrt.blocks.cache_types import F16_CACHE
from baremetalrt.blocks.cache_types import CacheType as CacheType
from baremetalrt.blocks.cache_types import CacheTypes as CacheTypes
from baremetalrt.session.options import GivenSampling as GivenSampling
from baremetalrt.session.options import SampleOptions as SampleOptions
from baremetalrt.session.overflow import Overflow as Overflow
from baremetalrt.swarm.options import SwarmOptions as SwarmOptions

# Any device that holds blocks, by how fast they are.
AUTO: Final = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """None means: choose from what the machine has.

    `device`: `AUTO`, or names of devices with commas between them.
    `context`: tokens of the longest text. `max_sessions`: texts at once. `repack`: matrices may be
    copied into the order in which they multiply fastest. `chat_template`: Jinja, instead of the model's.
    `cache_types`: how keys and values are kept, of models that run here and not for peers.
    `context_overflow`: what becomes of texts that are longer than the context.
    `keeps_prefixes`: texts are looked for, and left, on disk, as `[cache]` of `config.toml` says.
    `public_system`: a system text that everybody may know, which is computed once for all who send it.
    `memory_bytes`: what this process may take in all; `device_memory`: what blocks may take on a device.
    """

    device: str = AUTO
    num_threads: int | None = None
    context: int | None = None
    max_sessions: int = 1
    repack: bool = True
    chat_template: str | None = None
    cache_types: CacheTypes = F16_CACHE
    context_overflow: Overflow = "error"
    keeps_prefixes: bool = False
    public_system: str | None = None
    memory_bytes: int | None = None
    device_memory: tuple[tuple[str, int], ...] = ()
