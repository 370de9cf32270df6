"""Our engine against llama.cpp itself: same library, same file, same threads, one after the other.

Prints, for each figure, the ratio of ours to theirs: speeds and inverse times so that above 1 we are
faster; memory so that below 1 we need less. Each ratio is the median over pairs that were measured
back to back, with the smallest and largest in brackets.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baremetalrt.devices.processor import default_threads
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.store import StoredModel, find_model
from processes import Worker
from qwen import fetch_qwen

CONTEXT = 4096
QUESTION = "What is a torrent? Answer in two sentences."
_HERE = Path(__file__).parent


def prompt(length: int, seed: int) -> list[int]:
    """Token ids that no other seed begins with, so that nothing comes out of a cache."""
    return [(seed * 7919 + i * 104729) % 30000 + 1000 for i in range(length)]


class Bench:
    def __init__(self, model: Path, *, pairs: int) -> None:
        self._model = model
        self._pairs = pairs
        self._threads = default_threads()
        self._seed = 0

    def _arguments(self, num_sequences: int) -> dict[str, Any]:
        return {
            "model": str(self._model),
            "context": CONTEXT,
            "num_threads": self._threads,
            "num_sequences": num_sequences,
        }

    def _workers(self, num_sequences: int) -> tuple[Worker, Worker]:
        arguments = self._arguments(num_sequences)
        return Worker("engine_worker.py", arguments), Worker("llama_cpp_worker.py", arguments)

    def _compare(
        self, name: str, measure: Callable[[Any], float], sides: tuple[Any, Any], unit: str
    ) -> None:
        """`measure` gives a speed for one side; pairs alternate in who goes first."""
        ratios, ours, theirs = [], [], []
        for pair in range(self._pairs):
            self._seed += 1
            first = pair % 2
            speed = [0.0, 0.0]
            for side in (first, 1 - first):
                speed[side] = measure(sides[side])
            ours.append(speed[0])
            theirs.append(speed[1])
            ratios.append(speed[0] / speed[1])
        report(name, ratios, statistics.median(ours), statistics.median(theirs), unit)

    def speeds(self, *, decode_only: bool = False) -> None:
        """Prefill and decode of one session, then decode of eight."""
        mine, other = self._workers(1)
        with mine, other:
            for length in (128, 1024) if not decode_only else ():

                def prefill(worker: Worker, length: int = length) -> float:
                    seed = self._seed
                    answer = worker.ask({"prompts": [prompt(length, seed)], "num_tokens": 1})
                    return length / answer["prefill_s"]

                self._compare(f"prefill of {length}", prefill, (mine, other), "tok/s")
            for length in (128, 2048):

                def decode(worker: Worker, length: int = length) -> float:
                    seed, tokens = self._seed, 48
                    answer = worker.ask({"prompts": [prompt(length, seed)], "num_tokens": tokens})
                    return (tokens - 1) / answer["decode_s"]

                self._compare(f"decode at {length}", decode, (mine, other), "tok/s")
            memory = [w.ask("memory")["peak_bytes"] for w in (mine, other)]
            ratio = memory[0] / memory[1]
            report("peak memory", [ratio], memory[0] / 2**20, memory[1] / 2**20, "MiB")
        mine, other = self._workers(8)
        with mine, other:
            single: dict[Worker, list[float]] = {mine: [], other: []}

            def decode_many(worker: Worker, sessions: int) -> float:
                tokens = 48
                prompts = [prompt(128, 100 * self._seed + i) for i in range(sessions)]
                answer = worker.ask({"prompts": prompts, "num_tokens": tokens})
                return sessions * (tokens - 1) / answer["decode_s"]

            def eight(worker: Worker) -> float:
                one, many = decode_many(worker, 1), decode_many(worker, 8)
                single[worker].append(many / one)
                return many

            self._compare("decode, 8 sessions", eight, (mine, other), "tok/s")
            for name, worker in (("ours", mine), ("theirs", other)):
                gains = single[worker]
                print(
                    f"  {'':24} 8 sessions to 1, {name}: {statistics.median(gains):.2f} "
                    f"[{min(gains):.2f} to {max(gains):.2f}]",
                    flush=True,
                )

    def first_token(self) -> None:
        """From the start of a process to the first byte of its answer."""
        limits = [str(CONTEXT), str(self._threads)]
        mine = [str(Path(sys.executable).with_name("bmrt")), "run", str(self._model), QUESTION]
        mine += ["-t", "0", "-n", "1", "--context", limits[0], "--threads", limits[1]]
        other = [sys.executable, str(_HERE / "first_token_llama_cpp.py"), str(self._model)]
        other += [rendered(self._model, QUESTION), *limits]

        def inverse_time(command: list[str]) -> float:
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            first = process.stdout.read(1)
            elapsed = time.perf_counter() - started
            process.stdout.read()
            if process.wait() or not first:
                raise RuntimeError(f"{command[0]} gave no token")
            return 1.0 / elapsed

        for command in (mine, other):
            inverse_time(command)  # the file and the libraries are in the page cache for both
        self._compare("to the first token", inverse_time, (mine, other), "per s")


def rendered(model: Path, question: str) -> str:
    """The question as the model's template puts it."""
    node = Node(ModelOptions(context=CONTEXT))
    try:
        loaded = node.load(Opening(StoredModel(model.stem, model, is_default=False)))
        return loaded.template.render([{"role": "user", "content": question}])
    finally:
        node.close()


def report(name: str, ratios: list[float], ours: float, theirs: float, unit: str) -> None:
    spread = f"[{min(ratios):.3f} to {max(ratios):.3f}]" if len(ratios) > 1 else ""
    print(
        f"  {name:24} {statistics.median(ratios):6.3f} {spread:20} "
        f"ours {ours:8.1f}, llama.cpp {theirs:8.1f} {unit}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--qwen", action="store_true", help="Qwen2.5-Coder-0.5B too: 491 MB")
    parser.add_argument("--only", choices=["speeds", "first-token", "decode"])
    parser.add_argument("--model", type=Path, help="this file instead")
    arguments = parser.parse_args()
    models = [arguments.model or find_model(None).path]
    if arguments.qwen:
        models.append(fetch_qwen())
    for model in models:
        bench = Bench(model, pairs=max(5, arguments.pairs))
        print(f"{model.name}, {default_threads()} threads: ours / llama.cpp, median of pairs")
        if arguments.only == "decode":
            bench.speeds(decode_only=True)
            continue
        if arguments.only != "speeds":
            bench.first_token()
        if arguments.only != "first-token":
            bench.speeds()


if __name__ == "__main__":
    main()
