"""Sessions with adapters: who computes together, who shares a beginning, when memory is given back."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_arriving import Trickle

from baremetalrt.blocks.loaded_adapters import AdapterSet, WeightedAdapter
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.session.arriving_stage import ArrivingStage
from baremetalrt.session.route import Route
from baremetalrt.session.stage import LocalStage
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.adapters.adapter import Adapter
from baremetalrt.weights.store import default_model
from session_kit import Kit, answer, assert_same_or_tie, ids, prompt, run_async
from tiny_adapters import random_adapter
from tiny_spans import open_span

OPTIONS = {"max_tokens": 8, "ignore_end": True, "top_logprobs": 2}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    default = default_model()
    assert default is not None
    tokenizer = Tokenizer(default.path)
    kit = Kit(tmp_path_factory.mktemp("tiny"), tokenizer)
    yield kit
    kit.close()
    tokenizer.close()


@pytest.fixture(scope="module")
def adapters(kit: Kit) -> list[Adapter]:
    # The vocabulary is large and the model is not: blocks alone are adapted.
    return [
        random_adapter(kit.path, seed=i, strength=1.0, targets=lambda n: n.startswith("blk."))
        for i in range(12)
    ]


def using(*members: tuple[Adapter, float]) -> AdapterSet:
    return AdapterSet(tuple(WeightedAdapter(adapter, scale) for adapter, scale in members))


@run_async
async def test_each_session_has_its_own_adapters(kit: Kit, adapters: list[Adapter]) -> None:
    """Seven sessions at once on one stage: each answers as it does alone."""
    one, two = using((adapters[0], 1.0)), using((adapters[0], 0.5), (adapters[1], 1.0))
    sets = (None, one, two, one, None, using((adapters[1], 1.0)), one)
    texts = [prompt(i, 30 + 7 * i) for i in range(len(sets))]
    alone = [
        await answer(kit.session(kit.solo(), t, adapters=a, **OPTIONS))
        for t, a in zip(texts, sets, strict=True)
    ]
    route = kit.shared(kit.span(num_cells=8192))
    together = await asyncio.gather(
        *(
            answer(kit.session(route, t, adapters=a, **OPTIONS))
            for t, a in zip(texts, sets, strict=True)
        )
    )
    for ours, expected in zip(together, alone, strict=True):
        assert_same_or_tie(ours, expected)
    plain = await answer(kit.session(kit.solo(), texts[1], **OPTIONS))
    assert ids(plain) != ids(alone[1])


@run_async
async def test_only_the_same_set_computes_together(
    kit: Kit, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch never mixes sets, and a set that two sessions use is one batch."""
    batches: list[set[object]] = []
    sizes: list[int] = []
    forward = Span.forward

    def noted(self, slices, reads, *, part=None):
        batches.append({s.sequence.adapters for s in slices})
        sizes.append(len(slices))
        return forward(self, slices, reads, part=part)

    monkeypatch.setattr(Span, "forward", noted)
    route = kit.shared(kit.span(num_cells=8192))
    one = using((adapters[0], 1.0))
    await asyncio.gather(
        *(
            answer(kit.session(route, prompt(i, 20), adapters=a, **OPTIONS))
            for i, a in enumerate((one, None, one, None, one))
        )
    )
    assert all(len(keys) == 1 for keys in batches)
    assert max(sizes) == 3


@run_async
async def test_a_beginning_is_shared_within_one_set_alone(
    kit: Kit, adapters: list[Adapter]
) -> None:
    """Keys and values are what the adapters made them: another set, or another weight, starts over."""
    a, b = adapters[:2]
    span = kit.span(num_cells=16384)
    route = kit.solo(span)
    first = prompt(3, 100)
    sets = [None, using((a, 1.0)), using((a, 0.5)), using((b, 1.0)), using((a, 1.0), (b, 1.0))]
    for adapters_ in sets:
        session = kit.session(route, first, adapters=adapters_, **OPTIONS)
        expected = await answer(kit.session(kit.solo(), first, adapters=adapters_, **OPTIONS))
        assert_same_or_tie(await answer(session), expected)
        assert session.stats.cached_tokens == 0
    same = [*sets[:4], using((b, 1.0), (a, 1.0))]  # the order of a set means nothing
    for adapters_ in same:
        session = kit.session(route, first, adapters=adapters_, **OPTIONS)
        await answer(session)
        assert session.stats.cached_tokens == 99


@run_async
async def test_adapters_are_loaded_once_and_unloaded_when_asked(
    kit: Kit, adapters: list[Adapter]
) -> None:
    """Memory goes when nobody uses a set and it is unwanted; a set in use stays until its last user."""
    span = kit.span(num_cells=8192)
    one, both = using((adapters[0], 1.0)), using((adapters[0], 1.0), (adapters[1], 1.0))
    first, second = (span.open(prompt(i, 20), 64, adapters=one) for i in range(2))
    third = span.open(prompt(2, 20), 64, adapters=both)
    assert set(span.adapters.keys) == {one.key, both.key}
    held = span.adapters.num_bytes
    span.release(third, keep=True)
    span.adapters.unload(adapters[0].digest)
    assert span.adapters.keys == (one.key,) and span.adapters.num_bytes < held
    logits = span.forward([Slice(first, prompt(0, 20))], "last").copy()
    span.release(first, keep=False)
    assert span.adapters.keys == (one.key,)
    span.release(second, keep=False)
    assert span.adapters.keys == () and span.adapters.num_bytes == 0
    again = span.open(prompt(0, 20), 64, adapters=one)
    np.testing.assert_array_equal(span.forward([Slice(again, prompt(0, 20))], "last"), logits)
    span.release(again, keep=False)


@run_async
async def test_sets_that_nobody_uses_do_not_pile_up(kit: Kit, adapters: list[Adapter]) -> None:
    """However many weights and combinations clients think of: the last few stay loaded."""
    span = kit.span(num_cells=8192)
    for i in range(40):
        used = using((adapters[i % 12], 1.0 + i / 100))
        sequence = span.open(prompt(i, 4), 8, adapters=used)
        span.forward([Slice(sequence, prompt(i, 4))], "last")
        span.release(sequence, keep=False)
    assert len(span.adapters.keys) == 8 and used.key in span.adapters.keys


@run_async
async def test_a_session_that_gives_up_gives_its_adapters_back(
    kit: Kit, adapters: list[Adapter]
) -> None:
    """Cancelled while it waits for its place, or refused for lack of room."""
    worker = ThreadPoolExecutor(1)
    span = kit.span(num_cells=512)
    route = Route([LocalStage(span, worker)])
    one = using((adapters[0], 1.0))
    opening = asyncio.ensure_future(route.open(prompt(0, 20), 64, one))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    held = await route.open(prompt(1, 20), 500)
    with pytest.raises(CapacityError):
        await route.open(prompt(0, 20), 200, one)
    route.release(held, keep=False)
    await asyncio.wrap_future(worker.submit(span.adapters.unload, adapters[0].digest))
    assert span.adapters.keys == ()
    worker.shutdown()


@run_async
async def test_a_model_that_is_arriving_takes_adapters_once_it_is_here(
    kit: Kit, adapters: list[Adapter], tmp_path: Path
) -> None:
    """Until then the request is told so; nobody waits, and nothing is computed without the adapter."""
    source = Trickle(kit.path, tmp_path / "arriving.gguf")
    span = open_span(tmp_path / "arriving.gguf", num_cells=4096, context=4096, arrives=True)
    worker = ThreadPoolExecutor(1)
    stage = ArrivingStage(span, worker, source)
    route = Route([stage])
    one = using((adapters[0], 1.0))
    with pytest.raises(CapacityError) as caught:
        await answer(kit.session(route, prompt(0, 30), adapters=one, **OPTIONS))
    assert caught.value.code == "adapter.arriving"
    waiting = asyncio.ensure_future(answer(kit.session(route, prompt(1, 30), **OPTIONS)))
    for unit in span.units:
        await source.deliver(span.unit_ranges(unit))
    await waiting
    ours = await answer(kit.session(route, prompt(0, 30), adapters=one, **OPTIONS))
    expected = await answer(kit.session(kit.solo(), prompt(0, 30), adapters=one, **OPTIONS))
    assert_same_or_tie(ours, expected)
    await stage.close()
    worker.shutdown()
    span.close()


class Elsewhere:
    """A stage on another machine: it knows nothing of adapters."""

    chunk_tokens = 512

    async def open(self, tokens: object, capacity: int, owner: object) -> object:
        raise AssertionError("nobody should come here")


@run_async
async def test_a_route_over_peers_takes_no_adapter(kit: Kit, adapters: list[Adapter]) -> None:
    """An answer without the adapter that was asked for would be a wrong one."""
    span = kit.span()
    route = Route([*kit.solo(span).stages, Elsewhere()])  # type: ignore[list-item]
    assert not route.takes_adapters
    with pytest.raises(UsageError) as caught:
        await route.open(prompt(0, 20), 64, using((adapters[0], 1.0)))
    assert caught.value.code == "adapter.route"
    span.adapters.unload(adapters[0].digest)
    assert span.adapters.keys == ()
