"""How fast a model runs on this machine."""

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from baremetalrt.node.events import OnEvent
from baremetalrt.node.local_model import open_local
from baremetalrt.node.model import Model
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions, GenerationStats

PREFILLS: Final = (128, 512)
_DECODE_CONTEXT: Final = 128
_DECODE_TOKENS: Final = 48
NUM_SESSIONS: Final = (1, 4, 8)


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one test, in every repetition."""

    test: str
    tokens_per_s: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.tokens_per_s)


@dataclass(frozen=True)
class Benchmark:
    """Speeds, and where the weights were: in the mapped file, or in copies."""

    model: str
    speeds: tuple[Speed, ...]
    mapped_bytes: int
    copied_bytes: int


async def measure_speed(
    opening: Opening,
    options: ModelOptions,
    repeat: int,
    on_event: OnEvent,
    *,
    prefills: Sequence[int] = PREFILLS,
    num_sessions: Sequence[int] = NUM_SESSIONS,
) -> Benchmark:
    """Prefill, and decode with one and with several sessions; raises like `open_local`.

    `options` give room for as many sessions as `num_sessions` says.
    """
    async with open_local(opening, options, on_event) as model:
        speeds = [await _prefill(model, n, repeat) for n in prefills if n < model.context_limit]
        speeds += [await _decode(model, sessions, repeat) for sessions in num_sessions]
        return Benchmark(model.name, tuple(speeds), *model.weight_bytes)


async def _prefill(model: Model, length: int, repeat: int) -> Speed:
    stats = [await _generate(model, _prompt(model, length, i), 1) for i in range(repeat)]
    return Speed(f"prefill {length}", tuple(s.prefill_tokens_per_s for s in stats))


async def _decode(model: Model, num_sessions: int, repeat: int) -> Speed:
    speeds = []
    for i in range(repeat):
        prompts = [
            _prompt(model, _DECODE_CONTEXT, 1000 * i + j + repeat) for j in range(num_sessions)
        ]
        stats = await asyncio.gather(
            *(_generate(model, prompt, _DECODE_TOKENS) for prompt in prompts)
        )
        num_tokens = sum(s.generated_tokens - 1 for s in stats)
        speeds.append(num_tokens / max(s.decode_s for s in stats))
    return Speed(f"decode, {num_sessions} at once", tuple(speeds))


def _prompt(model: Model, length: int, seed: int) -> list[int]:
    """Tokens without meaning, different for every seed so that none come from the cache."""
    size = model.tokenizer.size
    return [(seed * 7919 + i * 104729 + 11) % (size // 2) + size // 4 for i in range(length)]


async def _generate(model: Model, prompt: list[int], max_tokens: int) -> GenerationStats:
    greedy = SampleOptions(temperature=0.0)
    session = model.session(
        prompt, GenerationOptions(sampling=greedy, max_tokens=max_tokens, ignore_end=True)
    )
    async for _ in session.generate():
        pass
    return session.stats
