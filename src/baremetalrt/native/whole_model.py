"""A whole model of any architecture that libllama knows, computed by libllama itself.

Only for a process of its own: ggml ends the process on tensors that it does not like, and nobody has
compared those of such a file with what its architecture needs.

Source: `llama.h`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn

from baremetalrt.core.errors import CapacityError, IntegrityError
from baremetalrt.native import logs
from baremetalrt.native.backend import find_device
from baremetalrt.native.handle import Handle
from baremetalrt.native.library import load_library

Reads = Literal["all", "last", "none"]

_ALL_LAYERS: Final = -1
_TO_THE_END: Final = -1
# What `llama_decode` returns: no room in the cache, or no memory for the step.
_NO_ROOM: Final = (1, -2)


@dataclass(frozen=True, kw_only=True)
class WholeConfig:
    """How a whole model uses its device.

    `num_cells`: tokens of all texts together. `max_texts`: how many there may be, idle ones included.
    `max_rows`: logits that one step returns at most.
    """

    device: str
    num_threads: int
    num_cells: int
    max_texts: int
    step_tokens: int
    max_rows: int
    repack: bool


class WholeSlice(NamedTuple):
    """The next tokens of one text, from `position` on."""

    text: int
    position: int
    tokens: Sequence[int]


class WholeModel:
    """Texts are numbers from 0 on. Not safe for concurrent use."""

    def __init__(self, path: Path, config: WholeConfig) -> None:
        """Loads the model and computes two tokens, so that what ends the process ends it now.

        Raises:
            IntegrityError: libllama refuses the file, or it is no model that writes texts.
            CapacityError: there is no memory for it.
        """
        self._c = load_library().c
        self._path = path
        self._model = self._load(config)
        vocabulary = self._c.llama_model_get_vocab(self._model.pointer)
        self.vocabulary_size = int(self._c.llama_vocab_n_tokens(vocabulary))
        if self._c.llama_model_has_encoder(self._model.pointer):
            self._refuse("it has an encoder, and does not simply go on with a text")
        self._context = self._make_context(config)
        self._memory = self._c.llama_get_memory(self._context.pointer)
        self._batch = self._c.llama_batch_init(config.step_tokens, 0, 1)
        # Which tokens of the last step have logits.
        self._read: list[int] = []
        self.can_cut = self._try()

    def _load(self, config: WholeConfig) -> Handle:
        parameters = self._c.llama_model_default_params()
        # An empty list, and not none: none would mean every device there is.
        devices = (ctypes.c_void_p * 2)()
        device = find_device(config.device)
        if device.is_host:
            parameters.n_gpu_layers = 0
        else:
            devices[0] = device.pointer
            parameters.n_gpu_layers = _ALL_LAYERS
        parameters.devices = ctypes.cast(devices, ctypes.c_void_p)
        parameters.use_extra_bufts = config.repack and not device.has_tiles()
        with logs.captured_errors() as lines:
            pointer = self._c.llama_model_load_from_file(bytes(self._path), parameters)
        if not pointer:
            self._refuse(logs.reason(lines, "libllama refuses it"))
        return Handle(pointer, self._c.llama_model_free, what="a model")

    def _make_context(self, config: WholeConfig) -> Handle:
        p = self._c.llama_context_default_params()
        p.n_ctx, p.n_seq_max = config.num_cells, config.max_texts
        p.n_batch = p.n_ubatch = config.step_tokens
        p.n_outputs_max = p.n_outputs_max_per_seq = config.max_rows
        p.n_threads = p.n_threads_batch = config.num_threads
        # A window of which only its own tokens are kept could not go back behind its beginning.
        p.swa_full = True
        # Texts share the cells of a common beginning.
        p.kv_unified = True
        with logs.captured_errors() as lines:
            pointer = self._c.llama_init_from_model(self._model.pointer, p)
        if not pointer:
            raise CapacityError(
                f"no memory for {config.num_cells} tokens: {logs.reason(lines, 'libllama says no')}",
                code="context.memory",
                hint="use a smaller --context",
            )
        return Handle(pointer, self._c.llama_free, what="a context")

    def _try(self) -> bool:
        """Computes a step; whether a text can be cut after it, which those with a state cannot."""
        self.forward([WholeSlice(0, 0, [0, 0])], "last")
        if not self._c.llama_get_logits_ith(self._context.pointer, self._read[0]):
            self._refuse("it gives no logits")
        can_cut = self.cut(0, 1)
        self.clear()
        return can_cut

    def _refuse(self, reason: str) -> NoReturn:
        if "alloc" in reason:
            raise CapacityError(
                f"{self._path.name} cannot be loaded: {reason}",
                code="native.allocation",
                hint="close what else needs memory, or use a smaller model",
            )
        raise IntegrityError(
            f"{self._path.name} cannot be loaded: {reason}",
            code="model.refused",
            source=str(self._path),
            hint="the file is damaged, is no language model, or needs a newer library",
        )

    # texts

    def cut(self, text: int, length: int) -> bool:
        """Forgets all but the first tokens of a text; False, with all as it was, where it cannot be."""
        return bool(self._c.llama_memory_seq_rm(self._memory, text, length, _TO_THE_END))

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives an empty text the first tokens of another; all of it, where texts cannot be cut."""
        end = length if self.can_cut else _TO_THE_END
        self._c.llama_memory_seq_cp(self._memory, source, target, 0, end)

    def clear(self) -> None:
        """Forgets all texts, with what they left behind."""
        self._c.llama_memory_clear(self._memory, True)

    # steps

    def forward(self, slices: Sequence[WholeSlice], reads: Reads) -> int:
        """Computes one step; returns how many rows there are to `copy_rows`.

        Raises:
            CapacityError: no memory for this step, or no room for its tokens.
        """
        self._fill(slices, reads)
        status = self._c.llama_decode(self._context.pointer, self._batch)
        if status in _NO_ROOM:
            raise CapacityError(
                "no memory for this step",
                code="native.allocation",
                hint="use a shorter context or fewer sessions",
            )
        if status != 0:
            raise IntegrityError(
                f"{self._path.name}: libllama could not compute a step ({status})",
                code="model.failed",
                source=str(self._path),
            )
        return len(self._read)

    def _fill(self, slices: Sequence[WholeSlice], reads: Reads) -> None:
        batch, at = self._batch, 0
        self._read.clear()
        for text, position, tokens in slices:
            last = at + len(tokens) - 1
            for i, token in enumerate(tokens):
                batch.token[at] = token
                batch.pos[at] = position + i
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = text
                is_read = reads == "all" or (reads == "last" and at == last)
                batch.logits[at] = is_read
                if is_read:
                    self._read.append(at)
                at += 1
        batch.n_tokens = at

    def copy_rows(self, address: int) -> None:
        """Writes the logits of the last step, float32 `(R, V)`, in the order of its slices."""
        row_bytes = 4 * self.vocabulary_size
        for i, at in enumerate(self._read):
            row: Any = self._c.llama_get_logits_ith(self._context.pointer, at)
            ctypes.memmove(address + i * row_bytes, row, row_bytes)

    def close(self) -> None:
        """Frees everything."""
        self._c.llama_batch_free(self._batch)
        self._context.close()
        self._model.close()
