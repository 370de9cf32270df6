"""The process of a whole model: libllama, and nothing that it could harm.

A file of an architecture that we do not know cannot be checked tensor by tensor, and ggml ends the
process on what it does not like: this one. Where the system knows how, it has no network, and no files
but the model's.
"""

import mmap
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from baremetalrt.core.errors import BareMetalError, IntegrityError
from baremetalrt.core.sandbox import confine
from baremetalrt.native.library import load_library
from baremetalrt.native.whole_model import WholeModel
from baremetalrt.session.whole import wire


def main() -> None:
    requests, replies = os.fdopen(0, "rb"), _private_stdout()

    def say(reply: wire.Reply) -> None:
        replies.write(wire.encode(reply))
        replies.flush()

    load = wire.read_load(requests)
    if load is None:
        return
    # As long as files can be opened.
    load_library()
    row_bytes = 4 * load.vocabulary_size
    rows = mmap.mmap(load.rows_file, load.config.max_rows * row_bytes)
    _limit_resources()
    paths = [os.fsdecode(path) for path in load.paths]
    confine(readable=paths, files=load.is_confined, threads=True)
    try:
        model = _open(Path(paths[0]), load)
    except BareMetalError as error:
        say(_failed(error))
        return
    say(wire.Loaded(model.can_cut))
    address = np.frombuffer(rows, np.uint8).ctypes.data
    while (step := wire.read_step(requests)) is not None:
        say(_compute(model, step, address))


def _open(path: Path, load: wire.Load) -> WholeModel:
    model = WholeModel(path, load.config)
    if model.vocabulary_size != load.vocabulary_size:
        raise IntegrityError(
            f"{path.name} has {model.vocabulary_size} tokens, and had {load.vocabulary_size} before",
            code="model.refused",
            source=str(path),
        )
    return model


def _compute(model: WholeModel, step: wire.Step, address: int) -> wire.Reply:
    for change in step.changes:
        match change:
            case wire.Cut(text, length):
                # Whoever asks knows where it can be.
                assert model.cut(text, length)
            case wire.Copy(source, target, length):
                model.copy(source, target, length)
            case wire.Clear():
                model.clear()
    try:
        num_rows = model.forward(step.slices, step.reads)
    except BareMetalError as error:
        return _failed(error)
    model.copy_rows(address)
    return wire.Computed(num_rows)


def _failed(error: BareMetalError) -> wire.Failed:
    is_integrity = isinstance(error, IntegrityError)
    return wire.Failed(
        "integrity" if is_integrity else "capacity", error.message, error.code, error.hint
    )


def _private_stdout() -> BinaryIO:
    """Where replies go; what a library prints goes nowhere."""
    replies = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return replies


def _limit_resources() -> None:
    """No files are written, and no memory of a crash."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(which, (0, 0))


if __name__ == "__main__":
    main()
