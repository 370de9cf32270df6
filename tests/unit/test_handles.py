"""C objects are freed once, and nothing is left of what was closed."""

import gc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.units import MIB
from baremetalrt.native.handle import Handle
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.sampling import Sampler
from tiny_models import TinyModel, write
from tiny_spans import open_span

# An allocator keeps some of what it was given back. A leak of one graph, cache or copy of the weights
# per round would be several times this.
SLACK_BYTES = 8 * MIB
ROUNDS = 200


def test_closing_frees_once() -> None:
    """A second `close`, and the collector after it, do nothing."""
    freed: list[int] = []
    handle = Handle(7, freed.append, what="a thing")
    assert not handle.closed
    handle.close()
    handle.close()
    assert handle.closed
    del handle
    gc.collect()
    assert freed == [7]


def test_the_collector_frees_what_nobody_holds() -> None:
    """A handle that is forgotten is freed, in a cycle of references too."""
    freed: list[int] = []
    handle = Handle(7, freed.append, what="a thing")
    handle.itself = handle
    del handle
    gc.collect()
    assert freed == [7]


def test_leaving_a_block_frees() -> None:
    """After an error as well."""
    freed: list[int] = []
    with pytest.raises(ZeroDivisionError), Handle(7, freed.append, what="a thing"):
        raise ZeroDivisionError
    assert freed == [7]


def test_nothing_allocated_is_a_capacity_error() -> None:
    """A null pointer never becomes a handle, and is never freed."""
    with pytest.raises(CapacityError, match="a thing"):
        Handle(None, lambda _: pytest.fail("freed nothing"), what="a thing")


def resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def test_spans_leave_nothing_behind(tmp_path: Path) -> None:
    """Opening, running and closing a model again and again does not grow the process."""
    path = write(TinyModel("llama", weights="Q8_0", feed_forward_width=128), tmp_path / "m.gguf")

    def one_round() -> None:
        span = open_span(path)
        sequence = span.open([1, 2, 3], 8)
        span.forward([Slice(sequence, [1, 2, 3])], "last")
        span.release(sequence, keep=True)
        span.close()

    assert growth_bytes(one_round) < SLACK_BYTES


def test_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    """Neither do texts of many shapes in one span, nor their samplers."""
    span = open_span(write(TinyModel("llama"), tmp_path / "m.gguf"))
    lengths = iter(range(10**6))

    def one_round() -> None:
        n = 1 + next(lengths) % 97
        sampler = Sampler(SampleOptions(seed=1), span.hyperparameters.vocabulary_size, [])
        sequence = span.open([n] * n, 2 * n)
        logits = span.forward([Slice(sequence, [n] * n)], "last")
        sampler.sample(logits[0], None)
        sampler.close()
        span.grow(sequence, 700)
        span.release(sequence, keep=n % 2 == 0)

    assert growth_bytes(one_round) < SLACK_BYTES
    span.close()


def growth_bytes(one_round: Callable[[], None]) -> int:
    """How much the process grows in many rounds, after as many to warm up as allocators need."""
    for _ in range(ROUNDS // 2):
        one_round()
    before = resident_bytes()
    for _ in range(ROUNDS):
        one_round()
    return resident_bytes() - before
