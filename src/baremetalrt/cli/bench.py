"""`bmrt bench`: how fast a model runs on this machine."""

import asyncio
import statistics
from typing import Any, Final

import click

from baremetalrt.cli import options, output
from baremetalrt.serve.library import find_whole_model

_PREFILLS: Final = (128, 512)
_DECODE_CONTEXT: Final = 128
_DECODE_TOKENS: Final = 48
_SESSIONS: Final = (1, 4, 8)


@click.command("bench")
@click.argument("model", required=False, shell_complete=options.complete_model)
@click.option("--repeat", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.model_options
def command(model: str | None, repeat: int, as_json: bool, **arguments: Any) -> None:
    """Measure prefill, and decode with one and with several sessions, in tokens per second.

    Each figure is the median of the repetitions.
    """
    from baremetalrt.serve.node import Node
    from baremetalrt.serve.opening import Opening

    node = Node(options.node_config(arguments, max_sessions=max(_SESSIONS)))
    try:
        stored = find_whole_model(model)
        with output.progress(f"loading {stored.name}"):
            loaded = node.load(Opening(stored))
        results = asyncio.run(_measure(loaded, repeat))
        mapped, copied = loaded.weight_bytes
    finally:
        node.close()
    if as_json:
        output.print_json(
            {
                "model": stored.name,
                "results": results,
                "weights_mapped_bytes": mapped,
                "weights_copied_bytes": copied,
            }
        )
        return
    output.print_table(
        ("TEST", "TOKENS/S"),
        [(r["test"], f"{r['tokens_per_s']:.1f}") for r in results],
    )


async def _measure(model: Any, repeat: int) -> list[dict[str, Any]]:
    results = []
    for length in (n for n in _PREFILLS if n < model.context_limit):
        speeds = []
        for i in range(repeat):
            stats = await _generate(model, _prompt(model, length, i), 1)
            speeds.append(stats.prefill_tokens_per_s)
        results.append(_result(f"prefill {length}", speeds))
    for sessions in _SESSIONS:
        speeds = []
        for i in range(repeat):
            prompts = [
                _prompt(model, _DECODE_CONTEXT, 1000 * i + j + repeat) for j in range(sessions)
            ]
            all_stats = await asyncio.gather(
                *(_generate(model, prompt, _DECODE_TOKENS) for prompt in prompts)
            )
            tokens = sum(s.generated_tokens - 1 for s in all_stats)
            speeds.append(tokens / max(s.decode_s for s in all_stats))
        results.append(_result(f"decode, {sessions} at once", speeds))
    return results


def _prompt(model: Any, length: int, seed: int) -> list[int]:
    """Tokens without meaning, different for every seed so that none come from the cache."""
    size = model.tokenizer.size
    return [(seed * 7919 + i * 104729 + 11) % (size // 2) + size // 4 for i in range(length)]


async def _generate(model: Any, prompt: list[int], max_tokens: int) -> Any:
    from baremetalrt.session.sampling import SamplingOptions
    from baremetalrt.session.session import GenerationOptions

    greedy = SamplingOptions(temperature=0.0)
    session = model.session(
        prompt, GenerationOptions(sampling=greedy, max_tokens=max_tokens, ignore_end=True)
    )
    async for _ in session.generate():
        pass
    return session.stats


def _result(test: str, speeds: list[float]) -> dict[str, Any]:
    return {
        "test": test,
        "tokens_per_s": round(statistics.median(speeds), 3),
        "all_tokens_per_s": [round(s, 3) for s in speeds],
    }
