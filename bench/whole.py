"""What a token costs more where a model runs whole: libllama in its own process, against libllama called.

Same library, file, threads and steps; both choose the likeliest token. Prints the ratio of their speeds,
ours to theirs, as the median over pairs that were measured one right after the other; and that of the
processor time that both take, prompts included, in which others on the machine are not counted.
"""

import argparse
import asyncio
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from against_llama_cpp import CONTEXT, prompt, report
from baremetalrt.core.owner import Owner
from baremetalrt.devices.processor import default_threads
from baremetalrt.native.whole_model import WholeConfig
from baremetalrt.session.stage import CHUNK_TOKENS, DirectStage, QueuedStage, Stage
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.session.whole.process import WholeFile, WholeProcess
from baremetalrt.session.whole.texts import WholeTexts
from baremetalrt.weights.store import find_model
from processes import Worker

NUM_TOKENS = 64


class Whole:
    """The stage, with the commands of `llama_cpp_worker.py`."""

    def __init__(self, model: Path, num_texts: int, num_threads: int) -> None:
        tokenizer = Tokenizer(model)
        config = WholeConfig(
            device="cpu",
            num_threads=num_threads,
            num_cells=CONTEXT * num_texts,
            max_texts=num_texts,
            step_tokens=CHUNK_TOKENS,
            max_rows=32,
            repack=True,
        )
        file = WholeFile(
            paths=(model,), num_bytes=model.stat().st_size, vocabulary_size=tokenizer.size
        )
        self._process = WholeProcess(file, config, is_confined=True)
        self._process.start()
        self._worker = ThreadPoolExecutor(1)
        texts = WholeTexts(self._process, tokenizer.size)
        # As a node does: a queue is for several.
        self._stage: Stage = (
            QueuedStage(texts, self._worker) if num_texts > 1 else DirectStage(texts)
        )
        self._num_asked = 0

    async def _one(self, tokens: list[int], num_tokens: int) -> dict[str, Any]:
        self._num_asked += 1
        place = await self._stage.open(
            tokens, len(tokens) + num_tokens, Owner(str(self._num_asked))
        )
        started = time.perf_counter()
        for start in range(0, len(tokens), CHUNK_TOKENS):
            chunk = tokens[start : start + CHUNK_TOKENS]
            rows = await self._stage.forward(place, chunk, None, "last")
        said = [int(rows[0].argmax())]
        first = time.perf_counter()
        for _ in range(num_tokens - 1):
            rows = await self._stage.forward(place, [said[-1]], None, "last")
            said.append(int(rows[0].argmax()))
        ended = time.perf_counter()
        self._stage.release(place, keep=False)
        return {"started": started, "first": first, "ended": ended, "tokens": said}

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        async def all_at_once() -> list[dict[str, Any]]:
            return await asyncio.gather(
                *(self._one(p, command["num_tokens"]) for p in command["prompts"])
            )

        answers = asyncio.run(all_at_once())
        prefilled = max(a["first"] for a in answers)
        return {
            "prefill_s": prefilled - min(a["started"] for a in answers),
            "decode_s": max(a["ended"] for a in answers) - prefilled,
            "tokens": [a["tokens"] for a in answers],
        }

    def processor_s(self) -> float:
        """What this process and that of the model have used."""
        assert self._process._process is not None
        return processor_s(os.getpid()) + processor_s(self._process._process.pid)

    def close(self) -> None:
        self._worker.shutdown()
        self._process.close()


def processor_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def compare(model: Path, num_texts: int, length: int, pairs: int, threads: int) -> None:
    arguments = {
        "model": str(model),
        "context": CONTEXT,
        "num_threads": threads,
        "num_sequences": num_texts,
    }
    whole = Whole(model, num_texts, threads)
    with Worker("llama_cpp_worker.py", arguments) as direct:
        sides: tuple[Any, Any] = (whole, direct)
        used = (whole.processor_s, lambda: processor_s(direct.pid))
        processor: tuple[list[float], list[float]] = ([], [])
        decode: tuple[list[float], list[float]] = ([], [])
        prefill: tuple[list[float], list[float]] = ([], [])
        num_same = 0
        for pair in range(pairs + 1):
            prompts = [prompt(length, 100 * pair + i) for i in range(num_texts)]
            said: list[Any] = [None, None]
            for side in (pair % 2, 1 - pair % 2):
                before_s = used[side]()
                reply = sides[side].ask({"prompts": prompts, "num_tokens": NUM_TOKENS})
                said[side] = reply["tokens"]
                if pair:  # the first is there to warm up
                    processor[side].append(used[side]() - before_s)
                    decode[side].append(num_texts * (NUM_TOKENS - 1) / reply["decode_s"])
                    prefill[side].append(num_texts * length / reply["prefill_s"])
            num_same += said[0] == said[1]
        print(f"{num_texts} at once, prompts of {length}: same tokens in {num_same} of {pairs + 1}")
        for name, (ours, theirs) in (("prefill", prefill), ("decode", decode)):
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            report(name, ratios, statistics.median(ours), statistics.median(theirs), "tok/s")
        ratios = [a / b for a, b in zip(*processor, strict=True)]
        ours_s, theirs_s = map(statistics.median, processor)
        report("processor time", ratios, ours_s, theirs_s, "s")
        costs = [1e6 * (1 / a - 1 / b) for a, b in zip(*decode, strict=True)]
        print(f"  a decoded token costs {statistics.median(costs):+.0f} µs more")
    whole.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--model", type=Path, help="this file instead of the embedded default")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--short", action="store_true", help="one text with a short prompt alone")
    arguments = parser.parse_args()
    model = arguments.model or find_model(None).path
    cases = [(1, 32)] if arguments.short else [(1, 128), (1, 1024), (4, 128)]
    for num_texts, length in cases:
        compare(model, num_texts, length, arguments.pairs, arguments.threads)


if __name__ == "__main__":
    main()
