"""An installed engine against the bundled library: our program with either, in turns, in pairs.

Prints ratios of speeds, above 1 where the engine is faster; each is the median of pairs measured back to
back, with the smallest and largest in brackets. `bmrt engine install` comes first.
"""

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from against_llama_cpp import CONTEXT, prompt
from baremetalrt.devices.processor import default_threads
from baremetalrt.engines.store import Installed, find, installed
from baremetalrt.native.library import ENVIRONMENT_VARIABLE, packaged
from baremetalrt.weights.store import find_model
from processes import Worker
from qwen import fetch_qwen

_DECODED = 48
# No prompt begins like another one, so that nothing comes out of a cache.
_SEEDS = itertools.count(1)


def worker(library: Path, model: Path) -> Worker:
    """Our engine with that library."""
    os.environ[ENVIRONMENT_VARIABLE] = str(library)
    arguments = {"model": str(model), "context": CONTEXT, "num_threads": default_threads()}
    return Worker("engine_worker.py", {**arguments, "num_sequences": 1})


def prefill(length: int) -> Callable[[Worker, int], float]:
    def measure(side: Worker, seed: int) -> float:
        answer = side.ask({"prompts": [prompt(length, seed)], "num_tokens": 1})
        return float(length / answer["prefill_s"])

    return measure


def decode(length: int) -> Callable[[Worker, int], float]:
    def measure(side: Worker, seed: int) -> float:
        answer = side.ask({"prompts": [prompt(length, seed)], "num_tokens": _DECODED})
        return float((_DECODED - 1) / answer["decode_s"])

    return measure


def compare(
    name: str, measure: Callable[[Worker, int], float], sides: tuple[Worker, Worker], pairs: int
) -> None:
    """Pairs alternate in who goes first."""
    speeds: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        seed = next(_SEEDS)
        for side in (pair % 2, 1 - pair % 2):
            speeds[side].append(measure(sides[side], seed))
    ratios = [new / old for new, old in zip(*speeds, strict=True)]
    new, old = map(statistics.median, speeds)
    print(
        f"  {name:18} {statistics.median(ratios):6.3f} [{min(ratios):.3f} to {max(ratios):.3f}]  "
        f"engine {new:7.1f}, bundled {old:7.1f} tok/s",
        flush=True,
    )


def chosen(name: str | None) -> Installed | None:
    """The engine that is meant; None where none is installed."""
    if name is not None:
        return find(name)
    return next(iter(installed()), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", metavar="NAME", help="default: the first one installed")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--qwen", action="store_true", help="Qwen2.5-Coder-0.5B too: 491 MB")
    parser.add_argument("--model", type=Path, help="this file instead")
    arguments = parser.parse_args()
    engine, bundled = chosen(arguments.engine), next(packaged(), None)
    if engine is None or bundled is None:
        print("no engine to compare: `bmrt engine install` brings one", file=sys.stderr)
        return
    models = [arguments.model or find_model(None).path]
    if arguments.qwen:
        models.append(fetch_qwen())
    for model in models:
        print(f"{model.name}, {default_threads()} threads: {engine.title} / {bundled.origin}")
        with worker(engine.path, model) as new, worker(bundled.path, model) as old:
            for length in (128, 512, 1024):
                compare(f"prefill of {length}", prefill(length), (new, old), arguments.pairs)
            for length in (128, 2048):
                compare(f"decode at {length}", decode(length), (new, old), arguments.pairs)


if __name__ == "__main__":
    main()
