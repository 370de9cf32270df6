"""Texts that go to disk and come back as they were, or are computed again: never wrong tokens."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.blocks import prefix_file
from baremetalrt.blocks.cache_types import CacheTypes
from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.prefix_file import PrefixText
from baremetalrt.blocks.prefix_folder import PrefixFolder, held_in
from baremetalrt.blocks.prefix_transfer import TextGoneError, text_of
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.units import MIB
from tiny_models import TinyModel, write
from tiny_spans import open_span

MODEL = TinyModel("llama", head_size=32)
LENGTH, ANSWER = 700, 8
# Restored cells are those that were computed in one piece; only where the last step begins may differ.
ROUNDING = 2e-2


def tokens_of(seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, MODEL.vocabulary_size, LENGTH).tolist()


TEXT = tokens_of()


class Spans:
    """Spans that all use one folder, each as if in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = write(MODEL, folder / "model.gguf")
        self.root = folder / "prefixes"
        self.opened: list[Span] = []

    def open(self, *, types: CacheTypes | None = None, model: str = "one") -> Span:
        types = types or CacheTypes()
        span = open_span(self.path, num_cells=4096, cache_types=types, num_threads=1)
        made_by = {"model": model, "types": [types.keys, types.values]}
        span.prefixes = PrefixFolder(self.root, made_by, budget_bytes=64 * MIB)
        self.opened.append(span)
        return span


@pytest.fixture
def spans(tmp_path: Path) -> Iterator[Spans]:
    spans = Spans(tmp_path)
    yield spans
    for span in spans.opened:
        span.close()


def start(span: Span, tokens: list[int] = TEXT, owner: Owner = THIS_USER) -> CachedSequence:
    """A text as a stage opens it."""
    sequence = span.open(tokens, len(tokens) + ANSWER, owner=owner)
    for _ in span.restore(sequence, tokens):
        pass
    return sequence


def go_on(span: Span, sequence: CachedSequence, tokens: list[int] = TEXT) -> NDArray[np.float32]:
    """The logits after what is missing of a text, and after each token of an answer."""
    rows = [span.forward([Slice(sequence, tokens[sequence.length :])], "last").copy()]
    rows += [span.forward([Slice(sequence, [token])], "last").copy() for token in range(ANSWER)]
    return np.concatenate(rows)


def save(span: Span, sequence: CachedSequence) -> None:
    assert span.prefixes is not None
    span.prefixes.insert(text_of(span.cache, sequence, lambda call: call()))


def kept(spans: Spans, types: CacheTypes | None = None) -> tuple[NDArray[np.float32], Path]:
    """A text that was answered and written: the logits of its answer, and its file."""
    span = spans.open(types=types)
    sequence = start(span)
    rows = go_on(span, sequence)
    span.release(sequence, keep=True)
    save(span, sequence)
    (path,) = spans.root.glob("*/*.kv")
    return rows, path


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_a_restored_text_answers_like_one_that_was_computed(spans: Spans, kind: Any) -> None:
    """In another span, as after a restart; also from the middle of what is kept, and beyond its end."""
    types = CacheTypes(keys=kind, values=kind)
    expected, _ = kept(spans, types)
    span = spans.open(types=types)
    sequence = start(span)
    assert sequence.length == LENGTH - 1
    rows = go_on(span, sequence)
    np.testing.assert_allclose(rows, expected, atol=ROUNDING * np.abs(expected).max())
    assert (rows.argmax(1) == expected.argmax(1)).all()
    span.release(sequence, keep=False)
    branch = [*TEXT[:400], *tokens_of(2)]
    assert start(span, branch).length == 400
    fresh = spans.open(types=types, model="never seen")
    computed = start(fresh, branch)
    assert computed.length == 0
    ours, theirs = (
        go_on(one, text, branch)
        for one, text in ((span, span.cache.sequences.sequences[-1]), (fresh, computed))
    )
    np.testing.assert_allclose(ours, theirs, atol=ROUNDING * np.abs(theirs).max())


def test_cells_come_back_bit_by_bit(spans: Spans) -> None:
    _, path = kept(spans)
    before = spans.opened[0]
    after = spans.open()
    sequence = start(after)
    stored = before.cache.sequences.sequences[0]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == spans.root.stat().st_mode & 0o777 == 0o700
    for ours, theirs in zip(
        after.cache.read(sequence.first_cell, LENGTH - 1),
        before.cache.read(stored.first_cell, LENGTH - 1),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_memory_and_disk_together(spans: Spans) -> None:
    """What memory has is not read; what disk has beyond it is."""
    kept(spans)
    span = spans.open()
    short = start(span, TEXT[:300])
    span.forward([Slice(short, TEXT[short.length : 300])], "none")
    span.release(short, keep=True)
    sequence = start(span)
    assert sequence.length == LENGTH - 1 and sequence.num_saved == LENGTH - 1


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"types": CacheTypes(keys="q8_0", values="f16")},
    ],
    ids=["model", "types"],
)
def test_what_is_of_something_else_is_not_used(spans: Spans, other: dict[str, Any]) -> None:
    kept(spans)
    assert start(spans.open(**other)).length == 0


def test_what_is_of_somebody_else_is_not_used(spans: Spans) -> None:
    kept(spans)
    span = spans.open()
    assert start(span, owner=Owner("key:a")).length == 0
    assert start(span, owner=Owner("", "a client")).length == 0
    assert start(span).length == LENGTH - 1


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def _replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _become(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "first byte of the cells": lambda path: _flip(path, 4096),
    "last byte": lambda path: _flip(path, -1),
    "middle": lambda path: _flip(path, path.stat().st_size // 2),
    "head": lambda path: _flip(path, 60),
    "tokens": lambda path: _flip(path, 1200),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "longer": lambda path: _replace(path, path.read_bytes() + b"x"),
    "noise": lambda path: _replace(path, os.urandom(path.stat().st_size)),
    "zeros": lambda path: _replace(path, bytes(path.stat().st_size)),
    "a folder": lambda path: _become(path, Path.mkdir),
    "a pipe": lambda path: _become(path, os.mkfifo),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_costs_time_and_nothing_else(spans: Spans, damage: str) -> None:
    """What is not what was written is computed again, by a text that had some of it in memory, too."""
    expected, path = kept(spans)
    DAMAGE[damage](path)
    span = spans.open()
    short = start(span, TEXT[:40])
    span.forward([Slice(short, TEXT[short.length : 40])], "none")
    span.release(short, keep=True)
    sequence = start(span)
    assert sequence.length < LENGTH - 1
    rows = go_on(span, sequence)
    np.testing.assert_allclose(rows, expected, atol=ROUNDING * np.abs(expected).max())
    span.release(sequence, keep=True)
    if damage not in ("a folder", "a pipe"):
        save(span, sequence)
        assert start(spans.open()).length == LENGTH - 1


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_leaves_nothing_behind(
    spans: Spans, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it fills up while a text is written; when there is room again, it is kept."""
    span = spans.open()
    sequence = start(span)
    go_on(span, sequence)
    span.release(sequence, keep=True)
    limited = prefix_file.write

    def write_some(file: BinaryIO, made_by: Any, text: PrefixText) -> None:
        def chunks() -> Iterator[Any]:
            for i, chunk in enumerate(text.chunks):
                if i == at:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                yield chunk

        limited(file, made_by, replace(text, chunks=chunks()))

    monkeypatch.setattr(prefix_file, "write", write_some)
    with pytest.raises(OSError, match="No space left"):
        save(span, sequence)
    assert not [path for path in spans.root.rglob("*") if path.is_file()]
    monkeypatch.undo()
    save(span, sequence)
    assert held_in(spans.root).count == 1


def test_a_text_that_goes_while_it_is_written_leaves_nothing_behind(spans: Spans) -> None:
    """It made way for another, or was cut shorter: what is in its cells is not what it said."""
    span = spans.open()
    sequence = start(span)
    go_on(span, sequence)
    for end in (
        lambda: span.truncate(sequence, 300),
        lambda: span.release(sequence, keep=False),
    ):
        reads = 0

        def compute(call: Callable[[], Any], end: Callable[[], None] = end) -> Any:
            nonlocal reads
            reads += 1
            if reads == 2:
                end()
            return call()

        assert span.prefixes is not None
        with pytest.raises(TextGoneError):
            span.prefixes.insert(text_of(span.cache, sequence, compute))
        assert held_in(spans.root).count == 0 and not list(spans.root.glob("*/.*"))


def test_a_longer_text_takes_the_place_of_its_beginning(spans: Spans) -> None:
    _, path = kept(spans)
    span = spans.open()
    longer = [*TEXT, *range(ANSWER), *tokens_of(3)]
    sequence = start(span, longer)
    assert sequence.length == LENGTH + ANSWER
    go_on(span, sequence, longer)
    save(span, sequence)
    (only,) = spans.root.glob("*/*.kv")
    assert only != path
    other = start(span, [*TEXT[:300], *tokens_of(4)])
    go_on(span, other, [*TEXT[:300], *tokens_of(4)])
    save(span, other)
    assert held_in(spans.root).count == 2


def test_what_was_left_by_a_killed_process_goes(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not what another process is writing now."""
    _, path = kept(spans)
    old, new = path.with_name(f".{path.name}.dead"), path.with_name(f".{path.name}.beef")
    for one in (old, new):
        one.write_bytes(b"half")
    os.utime(old, (1, 1))
    span = spans.open()
    sequence = start(span, tokens_of(5))
    go_on(span, sequence, tokens_of(5))
    save(span, sequence)
    assert not old.exists() and new.exists()
