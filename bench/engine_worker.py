"""Our engine, in a process of its own, with the same commands as `llama_cpp_worker.py`."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `bmrt` does

from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.store import StoredModel
from processes import peak_memory_bytes


async def _one(model: Model, prompt: list[int], num_tokens: int) -> dict[str, Any]:
    # Prompts without meaning may end at once; llama.cpp's side goes on regardless.
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.0), max_tokens=num_tokens, ignore_end=True
    )
    session = model.session(prompt, options)
    started, first, ids = _clocks(), None, []
    async for token in session.generate():
        first = first or _clocks()
        ids.append(token.id)
    return {"started": started, "first": first, "ended": _clocks(), "tokens": ids}


def _clocks() -> tuple[float, float]:
    """The time, and the processor time of this process."""
    return time.perf_counter(), time.process_time()


async def generate(model: Model, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
    """All prompts at once: they prefill in turn and decode together."""
    answers = await asyncio.gather(*(_one(model, p, num_tokens) for p in prompts))
    started = min(a["started"] for a in answers)
    first, ended = (max(a[name] for a in answers) for name in ("first", "ended"))
    return {
        "prefill_s": first[0] - started[0],
        "decode_s": ended[0] - first[0],
        "prefill_processor_s": first[1] - started[1],
        "decode_processor_s": ended[1] - first[1],
        "tokens": [a["tokens"] for a in answers],
    }


def weights_of(model: Model) -> dict[str, Any]:
    """How much of them stays in memory, passes through slots, and is read in every step."""
    (span,) = model.spans
    w = span.weights
    return {
        "resident_bytes": w.mapped_bytes + w.copied_bytes,
        "slots_bytes": w.slots_bytes,
        "streamed_bytes": w.streamed_bytes,
        "read_bytes": w.read_bytes,
        "hit_rate": w.hit_rate,
    }


def main() -> None:
    arguments = json.loads(sys.argv[1])
    node = Node(
        ModelOptions(
            context=arguments["context"],
            num_threads=arguments["num_threads"],
            max_sessions=arguments["num_sequences"],
        )
    )
    path = Path(arguments["model"])
    model = node.load(Opening(StoredModel(path.stem, path, is_default=False)))
    print(json.dumps({"ready": True}), flush=True)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            if command == "memory":
                answer: dict[str, Any] = {"peak_bytes": peak_memory_bytes()}
            elif command == "weights":
                answer = weights_of(model)
            else:
                answer = await generate(model, **command)
            print(json.dumps(answer), flush=True)

    asyncio.run(serve())
    node.close()


if __name__ == "__main__":
    main()
