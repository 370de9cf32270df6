"""llama.cpp with its defaults, in a process of its own; one JSON command per line, one answer each.

Uses ctypes and nothing else, so that its memory is llama.cpp's and not that of Python packages.
"""

import json
import sys
import time
from typing import Any

import llama_h
from baremetalrt.native.library import load_library
from processes import peak_memory_bytes


class Worker:
    def __init__(
        self,
        model: str,
        *,
        context: int,
        num_threads: int,
        num_sequences: int,
        least_memory: bool = False,
    ) -> None:
        """`least_memory`: weights stay in the mapped file, and a prompt is computed in small steps."""
        load_library()
        self._c = llama_h.load()
        m = self._c.llama_model_default_params()
        m.use_extra_bufts = not least_memory
        self._model = self._c.llama_model_load_from_file(model.encode(), m)
        p = self._c.llama_context_default_params()
        p.n_ctx, p.n_seq_max = context * num_sequences, num_sequences
        if least_memory:
            p.n_ubatch = 64
        p.n_threads = p.n_threads_batch = num_threads
        self._context = self._c.llama_init_from_model(self._model, p)
        self._memory = self._c.llama_get_memory(self._context)
        self._batch = self._c.llama_batch_init(p.n_batch, 0, 1)
        self._n_batch = int(p.n_batch)
        self._greedy = self._c.llama_sampler_init_greedy()

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows are (token, position, sequence, wants logits)."""
        for start in range(0, len(rows), self._n_batch):
            part = rows[start : start + self._n_batch]
            batch = self._batch
            batch.n_tokens = len(part)
            for i, (token, position, sequence, wanted) in enumerate(part):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
                batch.seq_id[i][0], batch.logits[i] = sequence, wanted
            status = self._c.llama_decode(self._context, batch)
            if status:
                raise RuntimeError(f"llama_decode returned {status}")

    def _sample(self, row: int) -> int:
        return int(self._c.llama_sampler_sample(self._greedy, self._context, row))

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        """All prompts one after the other, then `num_tokens` of each, decoded together."""
        self._c.llama_memory_clear(self._memory, False)
        started = time.perf_counter()
        last = []
        for sequence, prompt in enumerate(prompts):
            rows = [(t, i, sequence, i == len(prompt) - 1) for i, t in enumerate(prompt)]
            self._decode(rows)
            last.append(self._sample(-1))
        prefilled = time.perf_counter()
        tokens = [[t] for t in last]
        for step in range(num_tokens - 1):
            self._decode([(t, len(prompts[s]) + step, s, True) for s, t in enumerate(last)])
            last = [self._sample(row) for row in range(len(prompts))]
            for sequence, token in enumerate(last):
                tokens[sequence].append(token)
        return {
            "prefill_s": prefilled - started,
            "decode_s": time.perf_counter() - prefilled,
            "tokens": tokens,
        }


def main() -> None:
    worker = Worker(**json.loads(sys.argv[1]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command == "memory":
            print(json.dumps({"peak_bytes": peak_memory_bytes()}), flush=True)
        else:
            print(json.dumps(worker.generate(**command)), flush=True)


if __name__ == "__main__":
    main()
