"""A disk that fails, a file that shrinks: a clear error, texts as they were, and on again afterwards."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import CapacityError, IntegrityError
from tiny_models import TinyModel, write
from tiny_spans import open_span

TEXT = [(11 * i) % 150 for i in range(40)]
MODEL = TinyModel("llama", num_blocks=6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(MODEL, tmp_path / "model.gguf")


@pytest.fixture
def span(path: Path) -> Iterator[Span]:
    span = open_span(path, weight_budget_bytes=200_000)
    assert not span.weights.is_whole
    yield span
    span.close()


def require_error_and_recovery(
    span: Span, begin: Callable[[], None], end: Callable[[], None]
) -> None:
    sequence, twin = span.open([1], 64), span.open([2], 64)
    span.forward([Slice(sequence, TEXT[:30])], "last")
    expected = [span.forward([Slice(twin, TEXT[:30])], "last").copy()]
    expected += [span.forward([Slice(twin, [t])], "last").copy() for t in TEXT[30:]]
    begin()
    for _ in range(3):
        with pytest.raises(IntegrityError) as caught:
            span.forward([Slice(sequence, TEXT[30:31])], "last")
        assert caught.value.code == "weights.read" and caught.value.hint
        assert sequence.tokens.tolist() == TEXT[:30]
    end()
    rows = [span.forward([Slice(sequence, [t])], "last").copy() for t in TEXT[30:]]
    np.testing.assert_array_equal(np.concatenate(rows), np.concatenate(expected[1:]))


def test_a_file_that_is_cut_while_it_is_used(span: Span, path: Path) -> None:
    whole = path.read_bytes()

    def cut() -> None:
        os.truncate(path, len(whole) - 60_000)

    def mend() -> None:
        # In place: the file is open.
        with path.open("r+b") as f:
            f.write(whole)

    require_error_and_recovery(span, cut, mend)


def test_a_disk_with_errors(span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.preadv

    def refused(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    require_error_and_recovery(
        span,
        lambda: monkeypatch.setattr(os, "preadv", refused),
        lambda: monkeypatch.setattr(os, "preadv", read),
    )


def test_short_reads_are_read_on(span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk may give less than it was asked for, at every call."""
    expected = compute(span)
    read = os.preadv
    sizes: list[int] = []

    def short(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        sizes.append(min(len(buffers[0]), 8192))
        return read(descriptor, [buffers[0][:8192]], offset)

    monkeypatch.setattr(os, "preadv", short)
    np.testing.assert_array_equal(compute(span), expected)
    assert len(sizes) > 10


@pytest.mark.parametrize("at", ["opening", "reading"])
def test_a_file_system_without_direct_reads(
    at: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = open_span(path, copy_budget_bytes=0)
    expected = compute(resident)
    resident.close()
    real = {"opening": os.open, "reading": os.preadv}[at]
    refused = []

    def no_direct(first: Any, second: Any, *others: Any) -> int:
        flags = second if at == "opening" else fcntl.fcntl(first, fcntl.F_GETFL)
        if flags & os.O_DIRECT:
            refused.append(first)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return int(real(first, second, *others))

    monkeypatch.setattr(os, "open" if at == "opening" else "preadv", no_direct)
    span = open_span(path, weight_budget_bytes=200_000)
    np.testing.assert_array_equal(compute(span), expected)
    assert refused
    span.close()


def test_no_room_for_a_single_block(path: Path) -> None:
    with pytest.raises(CapacityError) as caught:
        open_span(path, weight_budget_bytes=10_000)
    assert caught.value.code == "memory.block" and caught.value.hint


def compute(span: Span) -> NDArray[np.float32]:
    sequence = span.open([3], len(TEXT))
    rows = [span.forward([Slice(sequence, TEXT[:20])], "last").copy()]
    rows += [span.forward([Slice(sequence, [t])], "last").copy() for t in TEXT[20:]]
    span.release(sequence, keep=False)
    return np.concatenate(rows)
