"""Whole models for tests: their process, started as a node starts it."""

from pathlib import Path

from baremetalrt.native.whole_model import WholeConfig
from baremetalrt.session.whole.process import WholeFile, WholeProcess
from baremetalrt.session.whole.texts import WholeTexts
from tiny_whole import VOCABULARY_SIZE


def start(
    path: Path,
    *,
    num_cells: int = 1024,
    max_texts: int = 4,
    num_threads: int = 1,
    vocabulary_size: int = VOCABULARY_SIZE,
) -> WholeProcess:
    """A running process with the model."""
    config = WholeConfig(
        device="cpu",
        num_threads=num_threads,
        num_cells=num_cells,
        max_texts=max_texts,
        step_tokens=64,
        max_rows=32,
        repack=True,
    )
    file = WholeFile(paths=(path,), num_bytes=path.stat().st_size, vocabulary_size=vocabulary_size)
    process = WholeProcess(file, config, is_confined=True)
    try:
        process.start()
    except BaseException:
        process.close()
        raise
    return process


def texts(process: WholeProcess, *, vocabulary_size: int = VOCABULARY_SIZE) -> WholeTexts:
    return WholeTexts(process, vocabulary_size)


def process_id(process: WholeProcess) -> int:
    """Of the process that runs now."""
    assert process._process is not None
    return process._process.pid
