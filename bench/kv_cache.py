"""What keys and values cost in fewer bits, and what it saves to keep them on disk.

Memory and speed are ratios to f16, both sides in one process, in pairs that alternate in who goes first:
median, with the smallest and the largest in brackets. A reload is compared with the prefill of the same
tokens, each up to the first token of an answer; the model is loaded anew in between.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `bmrt` does

import psutil

from baremetalrt.blocks.cache_types import CACHE_TYPES, CacheType, CacheTypes
from baremetalrt.core.places import HOME_VARIABLE
from baremetalrt.devices.processor import default_threads
from baremetalrt.node.cache_config import CacheConfig
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.node.text_keeping import TextKeeper
from baremetalrt.session.route import RoutePlace
from baremetalrt.session.scoring import score
from baremetalrt.weights.store import StoredModel, find_model
from qwen import fetch_qwen

CONTEXT, FULL, RELOADED, SCORED, STEPS = 3072, 2048, 2000, 1536, 12
_DOCS = Path(__file__).parents[1] / "docs"


def prompt(length: int, seed: int) -> list[int]:
    """Token ids that no other seed begins with, so that nothing comes out of a cache."""
    return [(seed * 7919 + i * 104729) % 30000 + 1000 for i in range(length)]


@contextmanager
def opened(
    path: Path, threads: int, *, keeps_prefixes: bool = False, kind: CacheType = "f16"
) -> Iterator[Node]:
    options = ModelOptions(
        context=CONTEXT,
        num_threads=threads,
        cache_types=CacheTypes(keys=kind, values=kind),
        keeps_prefixes=keeps_prefixes,
    )
    node = Node(options)
    node.load(Opening(StoredModel(path.stem, path, is_default=False)))
    try:
        yield node
    finally:
        node.close()


def model_of(node: Node) -> Model:
    (model,) = node.models.values()
    return model


async def prefill(model: Model, tokens: list[int]) -> tuple[RoutePlace, float]:
    """Where a text stands, and the seconds to its first logits."""
    started = time.perf_counter()
    place = await model.route.open(tokens, CONTEXT)
    done = place.length
    while done < len(tokens):
        chunk = tokens[done : done + model.route.chunk_tokens]
        await model.route.forward(place, chunk, "last")
        done += len(chunk)
    return place, time.perf_counter() - started


async def decode_s(model: Model, place: RoutePlace) -> float:
    """Seconds of a few steps; the text is as long as before afterwards."""
    started = time.perf_counter()
    for token in range(STEPS):
        await model.route.forward(place, [token + 1000], "last")
    elapsed = time.perf_counter() - started
    for stage, stage_place in zip(model.route.stages, place.places, strict=True):
        await stage.truncate(stage_place, FULL)
    return elapsed


async def compare_types(path: Path, threads: int, pairs: int) -> None:
    """Memory, speed of decoding, and perplexity of each type."""
    text = "".join(p.read_text() for p in sorted(_DOCS.glob("*.md")))
    with ExitStack() as stack:
        models = {
            kind: model_of(stack.enter_context(opened(path, threads, kind=kind)))
            for kind in CACHE_TYPES
        }
        places, memory = {}, {}
        for kind, model in models.items():
            warm, _ = await prefill(model, prompt(512, 1))
            model.route.release(warm, keep=False)
            before = psutil.Process().memory_info().rss
            places[kind], _ = await prefill(model, prompt(FULL, 1))
            memory[kind] = psutil.Process().memory_info().rss - before
        for kind in CACHE_TYPES[1:]:
            ratios = []
            for pair in range(pairs):
                sides: list[CacheType] = ["f16", kind]
                seconds = {
                    side: await decode_s(models[side], places[side])
                    for side in (sides if pair % 2 else reversed(sides))
                }
                ratios.append(seconds["f16"] / seconds[kind])
            report(f"decode at {FULL:,}, {kind}", ratios)
            report(f"memory of {FULL:,} tokens, {kind}", [memory[kind] / memory["f16"]])
        for model, place in zip(models.values(), places.values(), strict=True):
            model.route.release(place, keep=False)
        tokens = models["f16"].encode(text)[:SCORED]
        for kind, model in models.items():
            found = await score(model.route, tokens[:1024], tokens[1024:])
            print(f"  {f'perplexity, {kind}':36} {found.perplexity:6.3f}", flush=True)


async def compare_reloads(path: Path, threads: int, pairs: int) -> None:
    """Prefills, and reads what they left from disk after the model was loaded anew."""
    ratios, seconds = [], []
    for seed in range(pairs):
        tokens = prompt(RELOADED, seed + 2)
        with opened(path, threads, keeps_prefixes=True) as node:
            place, computed_s = await prefill(model_of(node), tokens)
            model_of(node).route.release(place, keep=True)
            await TextKeeper(node, CacheConfig()).save_rest(node.spans)
        with opened(path, threads, keeps_prefixes=True) as node:
            place, reloaded_s = await prefill(model_of(node), tokens)
        ratios.append(reloaded_s / computed_s)
        seconds.append((reloaded_s, computed_s))
    report(f"reload of {RELOADED:,} to prefill", ratios)
    reloaded_s, computed_s = map(statistics.median, zip(*seconds, strict=True))
    print(f"  {'':36} {1000 * reloaded_s:.0f} ms, {computed_s:.2f} s", flush=True)


def report(name: str, ratios: list[float]) -> None:
    spread = f"[{min(ratios):.3f} to {max(ratios):.3f}]" if len(ratios) > 1 else ""
    print(f"  {name:36} {statistics.median(ratios):6.3f} {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--qwen", action="store_true", help="Qwen2.5-Coder-0.5B too: 491 MB")
    parser.add_argument("--model", type=Path, help="this file instead")
    arguments = parser.parse_args()
    models = [arguments.model or find_model(None).path]
    if arguments.qwen:
        models.append(fetch_qwen())
    for path in models:
        print(f"{path.name}, {arguments.threads} threads: ratios to f16, median of pairs")
        asyncio.run(compare_types(path, arguments.threads, max(5, arguments.pairs)))
        with tempfile.TemporaryDirectory() as folder:
            os.environ[HOME_VARIABLE] = folder
            asyncio.run(compare_reloads(path, arguments.threads, max(3, arguments.pairs // 2)))
            del os.environ[HOME_VARIABLE]


if __name__ == "__main__":
    main()
