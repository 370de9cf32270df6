"""An installed engine against the bundled library: our program with either, in turns, in pairs.

Prints ratios of speeds, above 1 where the engine is faster; each is the median of pairs measured back to
back, with the smallest and largest in brackets. With `--threads 1`, what is per processor second hardly
depends on what else the machine does. `bmrt engine install` comes first.
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


def worker(library: Path, model: Path, num_threads: int) -> Worker:
    """Our engine with that library."""
    os.environ[ENVIRONMENT_VARIABLE] = str(library)
    arguments = {"model": str(model), "context": CONTEXT, "num_threads": num_threads}
    return Worker("engine_worker.py", {**arguments, "num_sequences": 1})


Speeds = tuple[float, float]


def prefill(length: int) -> Callable[[Worker, int], Speeds]:
    """Tokens per second, and per second of the processor."""

    def measure(side: Worker, seed: int) -> Speeds:
        answer = side.ask({"prompts": [prompt(length, seed)], "num_tokens": 1})
        return length / answer["prefill_s"], length / answer["prefill_processor_s"]

    return measure


def decode(length: int) -> Callable[[Worker, int], Speeds]:
    """The same of an answer."""

    def measure(side: Worker, seed: int) -> Speeds:
        answer = side.ask({"prompts": [prompt(length, seed)], "num_tokens": _DECODED})
        num_tokens = _DECODED - 1
        return num_tokens / answer["decode_s"], num_tokens / answer["decode_processor_s"]

    return measure


def compare(
    name: str, measure: Callable[[Worker, int], Speeds], sides: tuple[Worker, Worker], pairs: int
) -> None:
    """Pairs alternate in who goes first."""
    found: tuple[list[Speeds], list[Speeds]] = ([], [])
    for pair in range(pairs):
        seed = next(_SEEDS)
        for side in (pair % 2, 1 - pair % 2):
            found[side].append(measure(sides[side], seed))
    for i, unit in enumerate(("tok/s", "tok per processor second")):
        new, old = ([speeds[i] for speeds in side] for side in found)
        ratios = [n / o for n, o in zip(new, old, strict=True)]
        print(
            f"  {name:16} {statistics.median(ratios):6.3f} [{min(ratios):.3f} to {max(ratios):.3f}]  "
            f"engine {statistics.median(new):6.1f}, bundled {statistics.median(old):6.1f} {unit}",
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
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--qwen", action="store_true", help="Qwen2.5-Coder-0.5B too: 491 MB")
    parser.add_argument("--model", type=Path, help="this file instead")
    arguments = parser.parse_args()
    engine, bundled = chosen(arguments.engine), next(packaged(), None)
    if engine is None or bundled is None:
        print("no engine to compare: `bmrt engine install` brings one", file=sys.stderr)
        return
    libraries = (engine.path, bundled.path)
    models = [arguments.model or find_model(None).path]
    if arguments.qwen:
        models.append(fetch_qwen())
    for model in models:
        print(f"{model.name}, {arguments.threads} threads: {engine.title} / {bundled.origin}")
        sides = (worker(library, model, arguments.threads) for library in libraries)
        with next(sides) as new, next(sides) as old:
            for length in (128, 512, 1024):
                compare(f"prefill of {length}", prefill(length), (new, old), arguments.pairs)
            for length in (128, 2048):
                compare(f"decode at {length}", decode(length), (new, old), arguments.pairs)


if __name__ == "__main__":
    main()
