"""Tuning in place against plain `transformers` and `peft` on the dequantized model.

Both sides take the same rows with the same adapter, in processes of their own, step by step in turn.
Prints the ratio of tokens per second (above 1 we are faster), of tokens per second of processor time,
which other programs disturb less, and of peak resident memory while training (below 1 we need less; ours
counts the mapped file). Median over pairs, smallest and largest in brackets.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from baremetalrt.devices.processor import default_threads
from baremetalrt.weights.store import find_model
from processes import Worker
from qwen import fetch_qwen

VOCABULARY = 30000


def rows(num_rows: int, length: int, seed: int) -> list[list[int]]:
    """Token ids without meaning: what is multiplied does not change how long it takes."""
    return [
        [(seed * 7919 + (row * length + i) * 104729) % VOCABULARY + 1000 for i in range(length + 1)]
        for row in range(num_rows)
    ]


def compare(model: Path, *, length: int, checkpointing: bool, pairs: int) -> None:
    arguments: dict[str, Any] = {
        "model": str(model),
        "num_threads": default_threads(),
        "rank": 8,
        "targets": None,
        "checkpointing": checkpointing,
    }
    with (
        Worker("tuning_worker.py", {**arguments, "side": "ours"}) as mine,
        Worker("tuning_worker.py", {**arguments, "side": "plain"}) as other,
    ):
        seconds: dict[Worker, list[float]] = {mine: [], other: []}
        computed: dict[Worker, list[float]] = {mine: [], other: []}
        for pair in range(pairs + 1):
            order = (mine, other) if pair % 2 else (other, mine)
            for worker in order:
                answer = worker.ask({"rows": rows(1, length, pair)})
                if pair:  # the first step of each warms up
                    seconds[worker].append(answer["seconds"])
                    computed[worker].append(answer["computed_s"])
        memory = [w.ask("memory")["peak_bytes"] for w in (mine, other)]
    how = "with checkpointing" if checkpointing else "without checkpointing"
    print(f"{model.name}, {length} tokens a step, {how}, {default_threads()} threads")
    for name, times in (("tokens per second", seconds), ("per processor second", computed)):
        ratios = [b / a for a, b in zip(times[mine], times[other], strict=True)]
        speeds = [length / statistics.median(times[w]) for w in (mine, other)]
        spread = f"[{min(ratios):.3f} to {max(ratios):.3f}]"
        print(
            f"  {name:22} {statistics.median(ratios):6.3f} {spread:20} "
            f"ours {speeds[0]:8.1f}, plain {speeds[1]:8.1f} tok/s"
        )
    print(
        f"  {'peak memory':22} {memory[0] / memory[1]:6.3f} {'':20} "
        f"ours {memory[0] / 2**20:8.0f}, plain {memory[1] / 2**20:8.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--qwen", action="store_true", help="Qwen2.5-Coder-0.5B too: 491 MB")
    parser.add_argument("--only", choices=["checkpointing", "plain"])
    arguments = parser.parse_args()
    models = [find_model(None).path, *([fetch_qwen()] if arguments.qwen else [])]
    for model in models:
        for checkpointing in (True, False):
            if arguments.only in (None, "checkpointing" if checkpointing else "plain"):
                compare(
                    model,
                    length=arguments.length,
                    checkpointing=checkpointing,
                    pairs=arguments.pairs,
                )


if __name__ == "__main__":
    main()
