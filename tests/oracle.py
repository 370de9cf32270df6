"""llama.cpp itself, through the same shared library: what our blocks are compared with."""

import ctypes as c
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

import llama_h
from baremetalrt.native import logs
from baremetalrt.native.graph import F16


class LlamaCpp:
    """A model and a context of llama.cpp, with its defaults where nothing else is said."""

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int = 4096,
        n_seq: int = 1,
        num_threads: int = 2,
        n_ubatch: int = 512,
        type_k: int = F16,
        type_v: int = F16,
    ) -> None:
        self._c = llama_h.load()
        with logs.captured_errors() as lines:
            self._model = self._c.llama_model_load_from_file(
                bytes(path), self._c.llama_model_default_params()
            )
        if not self._model:
            raise ValueError("llama.cpp refuses the model: " + "; ".join(lines))
        p = self._c.llama_context_default_params()
        p.n_ctx, p.n_seq_max, p.n_ubatch = n_ctx, n_seq, n_ubatch
        p.n_threads = p.n_threads_batch = num_threads
        p.type_k, p.type_v = type_k, type_v
        p.flash_attn_type = llama_h.FLASH_ATTENTION_ON
        # As many logits as the tests want to see at once.
        p.n_outputs_max = p.n_batch
        p.n_outputs_max_per_seq = p.n_batch
        self._context = self._c.llama_init_from_model(self._model, p)
        if not self._context:
            raise ValueError("llama.cpp cannot make a context")
        self._vocab = self._c.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(self._c.llama_vocab_n_tokens(self._vocab))
        self._memory = self._c.llama_get_memory(self._context)
        self._batch = self._c.llama_batch_init(p.n_batch, 0, 1)
        self._adapters: list[int] = []

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        *,
        sequences: Sequence[int] | None = None,
        outputs: Sequence[bool] | None = None,
    ) -> None:
        """One `llama_decode`. By default: one sequence, logits of the last token."""
        n = len(tokens)
        sequences = sequences or [0] * n
        outputs = outputs or [False] * (n - 1) + [True]
        batch = self._batch
        batch.n_tokens = n
        for i, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            batch.token[i] = int(token)
            batch.pos[i] = int(position)
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequences[i]
            batch.logits[i] = outputs[i]
        status = self._c.llama_decode(self._context, batch)
        if status != 0:
            raise ValueError(f"llama_decode returned {status}")

    def logits(self, i: int) -> NDArray[np.float32]:
        """The logits that belong to token `i` of the last batch."""
        pointer = self._c.llama_get_logits_ith(self._context, i)
        return np.ctypeslib.as_array(pointer, (self.vocabulary_size,)).copy()

    def prefill(self, tokens: Sequence[int], *, start: int = 0) -> NDArray[np.float32]:
        """Logits of every token of a text that follows the first `start` ones, `(T, V)`."""
        if start == 0:
            self.clear()
        n = len(tokens)
        self.decode(tokens, range(start, start + n), outputs=[True] * n)
        return np.stack([self.logits(i) for i in range(n)])

    def step(self, token: int, position: int) -> NDArray[np.float32]:
        """Logits after one more token."""
        self.decode([token], [position])
        return self.logits(0)

    def use_adapters(self, *adapters: tuple[Path, float]) -> None:
        """Loads these GGUF LoRAs, each with its weight, in place of those of before."""
        self._c.llama_set_adapters_lora(self._context, None, 0, None)
        for pointer in self._adapters:
            self._c.llama_adapter_lora_free(pointer)
        self._adapters = []
        for path, _ in adapters:
            with logs.captured_errors() as lines:
                pointer = self._c.llama_adapter_lora_init(self._model, bytes(path))
            if not pointer:
                raise ValueError("llama.cpp refuses the adapter: " + "; ".join(lines))
            self._adapters.append(pointer)
        n = len(adapters)
        scales = (c.c_float * n)(*(scale for _, scale in adapters))
        status = self._c.llama_set_adapters_lora(
            self._context, (c.c_void_p * n)(*self._adapters), n, scales
        )
        if status != 0:
            raise ValueError(f"llama_set_adapters_lora returned {status}")

    def clear(self) -> None:
        """Forgets every sequence."""
        self._c.llama_memory_clear(self._memory, False)

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        raw = text.encode()
        tokens = (c.c_int32 * (len(raw) + 8))()
        n = self._c.llama_tokenize(self._vocab, raw, len(raw), tokens, len(tokens), True, special)
        return tokens[:n]

    def close(self) -> None:
        self.use_adapters()
        self._c.llama_batch_free(self._batch)
        self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
