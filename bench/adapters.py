"""What an adapter costs: attaching one to a running server, decoding and prefilling with it.

The adapter has rank 8 on every linear layer and random numbers. Speeds are ratios of with to without,
both sides in one process, one after the other in pairs that alternate in who goes first: median, with
the smallest and the largest in brackets.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `bmrt` does
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from baremetalrt.blocks.loaded_adapters import AdapterSet, WeightedAdapter
from baremetalrt.devices.processor import default_threads
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.adapters import store
from baremetalrt.weights.adapters.adapter import Adapter
from baremetalrt.weights.content import content_id
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel, find_model
from commands import ServerProcess
from qwen import fetch_qwen
from tiny_adapters import random_adapter

CONTEXT = 2048


def prompt(length: int, seed: int) -> list[int]:
    """Token ids that no other seed begins with, so that nothing comes out of a cache."""
    return [(seed * 7919 + i * 104729) % 30000 + 1000 for i in range(length)]


def make(path: Path, seed: int) -> Adapter:
    return random_adapter(
        path, rank=8, seed=seed, strength=0.1, targets=lambda n: n.startswith("blk.")
    )


async def _speeds(model: Model, length: int, num_tokens: int, seed: int) -> tuple[float, float]:
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.0), max_tokens=num_tokens, ignore_end=True
    )
    session = model.session(prompt(length, seed), options)
    async for _ in session.generate():
        pass
    return session.stats.prefill_tokens_per_s, session.stats.decode_tokens_per_s


def speeds(stored: StoredModel, pairs: int, num_threads: int) -> None:
    """Decode and prefill of one session."""
    node = Node(ModelOptions(context=CONTEXT, num_threads=num_threads))
    plain = node.load(Opening(stored))
    adapter = make(stored.path, 0)
    adapted = plain.with_adapters(AdapterSet((WeightedAdapter(adapter),)), "bench")
    seeds = iter(range(1, 1 << 20))

    def measure(model: Model, length: int, num_tokens: int) -> tuple[float, float]:
        return asyncio.run(_speeds(model, length, num_tokens, next(seeds)))

    for model in (plain, adapted):
        measure(model, 128, 8)

    def compare(what: str, speed: Callable[[Model], float], aim: float) -> None:
        ratios, ours, theirs = [], [], []
        for pair in range(pairs):
            found = [0.0, 0.0]
            sides = (plain, adapted)
            for side in (pair % 2, 1 - pair % 2):
                found[side] = speed(sides[side])
            theirs.append(found[0])
            ours.append(found[1])
            ratios.append(found[1] / found[0])
        print(
            f"  {what:24} {statistics.median(ratios):6.3f} "
            f"[{min(ratios):.3f} to {max(ratios):.3f}] (aim {aim}) "
            f"with {statistics.median(ours):8.1f}, without {statistics.median(theirs):8.1f} tok/s",
            flush=True,
        )

    compare("decode at 128", lambda m: measure(m, 128, 48)[1], 0.85)
    compare("prefill of 128", lambda m: measure(m, 128, 1)[0], 0.9)
    compare("prefill of 1024", lambda m: measure(m, 1024, 1)[0], 0.9)
    node.close()


def attaching(stored: StoredModel, rounds: int, num_threads: int) -> None:
    """First request with an adapter that has just come, less the next one with the same."""
    file = GGUFFile.open(stored.path)
    with tempfile.TemporaryDirectory(prefix="bmrt-bench-") as folder:
        os.environ["BMRT_HOME"] = folder
        base = content_id(file)
        seconds, adapter = [], make(stored.path, 0)
        with ServerProcess(
            *(str(stored.path), "--context", "512", "--threads", str(num_threads)),
            "--no-torrents",
            home=Path(folder),
        ) as server:

            def ask(model: str, text: str) -> float:
                body = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0}
                request = urllib.request.Request(
                    f"{server.url}/v1/completions",
                    json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )
                started = time.perf_counter()
                with urllib.request.urlopen(request, timeout=60) as answer:
                    answer.read()
                return time.perf_counter() - started

            for _ in range(3):
                ask(stored.name, "1 2 3 4 5 6 7 8")
            for i in range(rounds):
                adapter = make(stored.path, i + 1)
                name = f"bench-{i}"
                store.add(replace(adapter, name=name, base_content_id=base))
                first = ask(f"{stored.name}:{name}", f"{i} 2 3 4 5 6 7 8")
                again = ask(f"{stored.name}:{name}", f"{i + 1} 2 3 4 5 6 7 9")
                seconds.append(first - again)
    print(
        f"  attach {adapter.num_bytes / 1e6:.1f} MB to a running server: "
        f"{statistics.median(seconds):.3f} s [{min(seconds):.3f} to {max(seconds):.3f}] (aim 0.2)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--qwen", action="store_true", help="Qwen2.5-Coder-0.5B too: 491 MB")
    arguments: Any = parser.parse_args()
    paths = [find_model(None).path] + ([fetch_qwen()] if arguments.qwen else [])
    for path in paths:
        print(
            f"{path.name}, {arguments.threads} threads, an adapter of rank 8 on all linear layers"
        )
        stored = StoredModel(path.stem, path, is_default=False)
        speeds(stored, arguments.pairs, arguments.threads)
        attaching(stored, arguments.pairs, arguments.threads)


if __name__ == "__main__":
    main()
