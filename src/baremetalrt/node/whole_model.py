"""Starts a model that runs whole, with the room that this machine has for it."""

import os
from typing import Final

from baremetalrt.blocks.architectures import GRAPHS_HINT
from baremetalrt.blocks.extents import CELL_QUANTUM
from baremetalrt.blocks.outline import read_outline
from baremetalrt.blocks.steps import CHUNK_TOKENS
from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import round_up
from baremetalrt.devices.fitting import FlatCost, Needs, fit
from baremetalrt.devices.processor import default_threads
from baremetalrt.native.backend import BackendDevice
from baremetalrt.native.whole_model import WholeConfig
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.session.whole.process import WholeFile, WholeProcess
from baremetalrt.weights.gguf import GGUFFile

# Texts that are kept for their beginnings, besides those that are being written.
_IDLE_TEXTS: Final = 3
# Source: `LLAMA_MAX_SEQ` in `llama-cparams.h`.
_MAX_TEXTS: Final = 256
# As many streams as a stage puts into one batch.
_MAX_ROWS: Final = 32


def tokenizer_of(opening: Opening) -> Tokenizer:
    """The vocabulary of a model that runs whole: whether it loads says whether the library knows it.

    Raises:
        UsageError: the library does not know the architecture either, or nobody the tokenizer.
        IntegrityError: the vocabulary is damaged.
    """
    try:
        return opening.tokenizer()
    except UsageError as error:
        if error.code != "model.unknown-architecture":
            raise
        raise UsageError(
            f"{opening.file.path.name} has the architecture {opening.file.architecture!r}, which "
            "neither this program nor its library knows",
            code=error.code,
            hint=GRAPHS_HINT,
        ) from error


def start_whole(
    file: GGUFFile,
    vocabulary_size: int,
    options: ModelOptions,
    device: BackendDevice,
    free_bytes: int,
    *,
    num_kept: int,
) -> tuple[WholeProcess, int]:
    """A process that has the model on a device with so much room, and how long texts may be; blocks.

    It has room for `num_kept` tokens besides, which stay.

    Raises:
        UsageError: the model takes no texts of that length.
        IntegrityError, CapacityError: see `WholeProcess.start`.
    """
    if os.name != "posix":
        raise UsageError(
            f"{file.path.name} has the architecture {file.architecture!r}, which runs only on Linux "
            "and macOS",
            code="model.unknown-architecture",
            hint=GRAPHS_HINT,
        )
    outline = read_outline(file)
    asked = options.context
    if asked is not None and asked > outline.training_context:
        # Of architectures that we do not know, some have nothing for later positions.
        raise UsageError(
            f"{file.path.name} takes texts of at most {outline.training_context} tokens",
            code="context.exceeded",
            parameter="context",
            hint=f"use --context {outline.training_context} or less",
        )
    needs = Needs(
        weight_bytes=file.num_bytes,
        cache=FlatCost(max(1, outline.token_bytes)),
        row_bytes=0,
        kept_row_bytes=0,
        context=options.context,
        max_context=outline.training_context,
        num_texts=options.max_sessions,
        quantum=CELL_QUANTUM,
    )
    fitted = fit(needs, free_bytes, can_stream=False)
    num_texts = options.max_sessions + _IDLE_TEXTS + (1 if num_kept else 0)
    config = WholeConfig(
        device=device.name,
        num_threads=options.num_threads or default_threads(),
        num_cells=fitted.num_cells + round_up(num_kept, CELL_QUANTUM),
        max_texts=min(num_texts, _MAX_TEXTS),
        step_tokens=CHUNK_TOKENS,
        max_rows=_MAX_ROWS,
        repack=options.repack and file.num_bytes <= fitted.copy_budget_bytes,
    )
    whole = WholeFile(paths=file.paths, num_bytes=file.num_bytes, vocabulary_size=vocabulary_size)
    process = WholeProcess(whole, config, is_confined=device.is_host)
    try:
        process.start()
    except BaseException:
        process.close()
        raise
    return process, fitted.context
