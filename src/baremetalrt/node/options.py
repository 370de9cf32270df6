"""How a model is to be loaded and computed, with the options of answers and of swarms beside it.

Light: parsed before the engine is imported.
"""

from dataclasses import dataclass

from baremetalrt.session.options import SampleOptions as SampleOptions
from baremetalrt.swarm.options import SwarmOptions as SwarmOptions


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """None means: choose from what the machine has.

    `context`: tokens of the longest text. `max_sessions`: texts at once. `repack`: matrices may be
    copied into the order in which they multiply fastest. `chat_template`: Jinja, instead of the model's.
    `public_system`: a system text that everybody may know, which is computed once for all who send it.
    `memory_bytes`: what this process may take in all.
    """

    device: str = "cpu"
    num_threads: int | None = None
    context: int | None = None
    max_sessions: int = 1
    repack: bool = True
    chat_template: str | None = None
    public_system: str | None = None
    memory_bytes: int | None = None
