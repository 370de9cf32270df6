"""The samplers of libllama: from logits to one token id.

Source: the sampling section of `llama.h`.
"""

import ctypes
from typing import Any

import numpy as np

from baremetalrt.native import declarations as d
from baremetalrt.native.handle import Handle
from baremetalrt.native.library import load_library

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class SamplerChain(Handle):
    """Penalties, filters, temperature and a seeded draw, applied in that order."""

    def __init__(self, vocabulary_size: int) -> None:
        self._c = load_library().c
        self._size = vocabulary_size
        super().__init__(
            self._c.llama_sampler_chain_init(self._c.llama_sampler_chain_default_params()),
            self._c.llama_sampler_free,
            what="a sampler",
        )
        self._data = np.zeros(vocabulary_size, dtype=_TOKEN_DATA)
        self._ids = np.arange(vocabulary_size, dtype=np.int32)

    def _add(self, sampler: int) -> None:
        self._c.llama_sampler_chain_add(self.pointer, sampler)

    def add_penalties(
        self, last_n: int, repetition: float, frequency: float, presence: float
    ) -> None:
        self._add(
            self._c.llama_sampler_init_penalties(
                self._size, last_n, repetition, frequency, presence
            )
        )

    def add_top_k(self, k: int) -> None:
        self._add(self._c.llama_sampler_init_top_k(k))

    def add_top_p(self, p: float) -> None:
        self._add(self._c.llama_sampler_init_top_p(p, 1))

    def add_typical(self, p: float) -> None:
        self._add(self._c.llama_sampler_init_typical(p, 1))

    def add_min_p(self, p: float) -> None:
        self._add(self._c.llama_sampler_init_min_p(p, 1))

    def add_temperature(self, temperature: float) -> None:
        self._add(self._c.llama_sampler_init_temp(temperature))

    def add_draw(self, seed: int) -> None:
        """Ends the chain: draws one of what is left."""
        self._add(self._c.llama_sampler_init_dist(seed))

    def accept(self, token: int) -> None:
        """Tells the penalties that `token` is now part of the text."""
        self._c.llama_sampler_accept(self.pointer, token)

    def sample(self, logits_V: np.ndarray[Any, np.dtype[np.float32]]) -> int:
        """Draws one token from the logits of a whole vocabulary of V tokens."""
        data = self._data
        data["id"] = self._ids
        data["logit"] = logits_V
        array = d.TokenDataArray(data.ctypes.data, self._size, -1, False)
        self._c.llama_sampler_apply(self.pointer, ctypes.byref(array))
        # A sampler may have replaced the array by its own.
        chosen = array.data + array.selected * ctypes.sizeof(d.TokenData)
        return int(d.TokenData.from_address(chosen).id)
