"""Prompts that follow behind a download give what a resident model gives."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import CHUNK_TOKENS, Slice
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import ByteRange
from baremetalrt.session.arriving_stage import ArrivingStage
from baremetalrt.session.route import Route
from baremetalrt.session.session import Session
from baremetalrt.session.stage import LocalStage
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import default_model
from session_kit import Kit, answer, ids, prompt, run_async
from tiny_spans import open_span


class Trickle:
    """A file of zeros that becomes `whole`, range by range, as the test says."""

    def __init__(self, whole: Path, target: Path) -> None:
        self._whole, self._target = whole, target
        self._data = whole.read_bytes()
        header = GGUFFile.open(whole).data_offsets[0]
        target.write_bytes(self._data[:header] + bytes(len(self._data) - header))
        self.here: set[ByteRange] = set()
        self.asked: list[tuple[ByteRange, ...]] = []
        self._changed = asyncio.Condition()
        self.failure: Exception | None = None

    async def deliver(self, ranges: Sequence[ByteRange]) -> None:
        with self._target.open("r+b") as file:
            for r in ranges:
                file.seek(r.start)
                file.write(self._data[r.start : r.end])
        async with self._changed:
            self.here.update(ranges)
            self._changed.notify_all()

    async def fail(self, error: Exception | None) -> None:
        async with self._changed:
            self.failure = error
            self._changed.notify_all()

    async def wait_for(self, ranges: Sequence[ByteRange]) -> None:
        self.asked.append(tuple(ranges))
        async with self._changed:
            await self._changed.wait_for(lambda: self.has(ranges) or self.failure)
        if self.failure is not None:
            raise self.failure

    def has(self, ranges: Sequence[ByteRange]) -> bool:
        return set(ranges) <= self.here


class Arriving:
    """A tiny model that arrives, and the tokens that it should give."""

    def __init__(self, kit: Kit, folder: Path, weight_budget_bytes: int | None) -> None:
        self.kit = kit
        self.source = Trickle(kit.path, folder / "arriving.gguf")
        self.worker = ThreadPoolExecutor(1)
        self.span: Span = open_span(
            folder / "arriving.gguf",
            num_cells=4096,
            context=4096,
            arrives=True,
            step_tokens=CHUNK_TOKENS,
            weight_budget_bytes=weight_budget_bytes,
        )
        self.stage = ArrivingStage(self.span, self.worker, self.source)
        self.route = Route([self.stage])

    def session(self, tokens: list[int], n: int = 6) -> Session:
        return self.kit.session(self.route, tokens, max_tokens=n, ignore_end=True)

    async def expected(self, tokens: list[int], n: int = 6) -> list[int | None]:
        session = self.kit.session(self.kit.solo(), tokens, max_tokens=n, ignore_end=True)
        return ids(await answer(session))

    async def deliver(self, order: Sequence[int] | None = None) -> None:
        units = self.span.units
        for i in order or range(len(units)):
            await self.source.deliver(self.span.unit_ranges(units[i]))
            await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    default = default_model()
    assert default is not None
    return Kit(tmp_path_factory.mktemp("kit"), Tokenizer(default.path))


@asynccontextmanager
async def arriving(
    kit: Kit, folder: Path, weight_budget_bytes: int | None = None
) -> AsyncIterator[Arriving]:
    model = Arriving(kit, folder, weight_budget_bytes)
    try:
        yield model
    finally:
        await model.stage.close()
        model.worker.shutdown()
        model.span.close()


@run_async
async def test_a_prompt_follows_behind_the_blocks(kit: Kit, tmp_path: Path) -> None:
    """The same tokens as from a model that was there from the beginning."""
    async with arriving(kit, tmp_path) as model:
        generating = asyncio.ensure_future(answer(model.session(prompt(1, 40))))
        await model.deliver()
        assert ids(await generating) == await model.expected(prompt(1, 40))


@run_async
async def test_units_are_asked_for_in_order_of_execution(kit: Kit, tmp_path: Path) -> None:
    """One at a time, so that the swarm knows what is needed now: embedding, blocks, head."""
    async with arriving(kit, tmp_path) as model:
        generating = asyncio.ensure_future(answer(model.session(prompt(2, 8))))
        for number, unit in enumerate(model.span.units):
            while len(model.source.asked) <= number:
                await asyncio.sleep(0.001)
            await model.source.deliver(model.span.unit_ranges(unit))
        await generating
        assert model.source.asked == [model.span.unit_ranges(unit) for unit in model.span.units]


@pytest.mark.parametrize("seed", range(4))
@run_async
async def test_blocks_may_come_in_any_order(kit: Kit, tmp_path: Path, seed: int) -> None:
    """What comes out of turn waits for its turn."""
    async with arriving(kit, tmp_path) as model:
        order = list(range(len(model.span.units)))
        random.Random(seed).shuffle(order)
        generating = asyncio.ensure_future(answer(model.session(prompt(3, 70))))
        await model.deliver(order)
        assert ids(await generating) == await model.expected(prompt(3, 70))


@pytest.mark.parametrize("seed", range(3))
@run_async
async def test_more_than_memory_holds_arrives_on_disk(kit: Kit, tmp_path: Path, seed: int) -> None:
    """What has no room is read when it is its turn, and never before it has arrived."""
    header = GGUFFile.open(kit.path).data_offsets[0]
    budget = (kit.path.stat().st_size - header) // 2
    async with arriving(kit, tmp_path, budget) as model:
        assert model.span.weights.streamed_bytes
        order = list(range(len(model.span.units)))
        if seed:
            random.Random(seed).shuffle(order)
        generating = asyncio.ensure_future(answer(model.session(prompt(3, 1100))))
        await model.deliver(order)
        assert ids(await generating) == await model.expected(prompt(3, 1100))
        again = await answer(model.session(prompt(5, 40)))
        assert ids(again) == await model.expected(prompt(5, 40))


@run_async
async def test_a_long_prompt_goes_through_each_block_in_chunks(kit: Kit, tmp_path: Path) -> None:
    """1,100 tokens are three chunks; every block sees all three before the next block does."""
    async with arriving(kit, tmp_path) as model:
        generating = asyncio.ensure_future(answer(model.session(prompt(4, 1100))))
        await model.deliver()
        assert ids(await generating) == await model.expected(prompt(4, 1100))


@run_async
async def test_blocks_run_before_the_last_one_is_there(kit: Kit, tmp_path: Path) -> None:
    """With all but the last block, its keys and values are computed in all the others already."""
    async with arriving(kit, tmp_path) as model:
        computed: list[tuple[int, int]] = []
        forward = model.span.forward

        def noted(*args: object, part: object = None, **kwargs: object) -> object:
            computed.append((part.start, part.end))  # type: ignore[attr-defined]
            return forward(*args, part=part, **kwargs)  # type: ignore[arg-type]

        model.span.forward = noted  # type: ignore[method-assign, assignment]
        generating = asyncio.ensure_future(answer(model.session(prompt(5, 20), n=1)))
        await model.deliver(range(len(model.span.units) - 2))  # not the last block, nor the head
        while not computed or computed[-1][1] < 2:
            await asyncio.sleep(0.001)
        assert not generating.done()
        await model.deliver(range(len(model.span.units) - 2, len(model.span.units)))
        await generating
        assert sum(end - start for start, end in computed) == len(model.span.blocks)


@run_async
async def test_prompts_that_wait_together_are_all_answered(kit: Kit, tmp_path: Path) -> None:
    """Three sessions before the first byte; each gets what it would get alone."""
    async with arriving(kit, tmp_path) as model:
        prompts = [prompt(10 + i, 30 + i) for i in range(3)]
        generating = [asyncio.ensure_future(answer(model.session(p, n=1))) for p in prompts]
        await model.deliver()
        for tokens, task in zip(prompts, generating, strict=True):
            assert ids(await task) == await model.expected(tokens, 1)


@run_async
async def test_a_cancelled_prompt_leaves_nothing_half_computed(kit: Kit, tmp_path: Path) -> None:
    """Its tokens have keys and values in some blocks only: the next session must not find them."""
    async with arriving(kit, tmp_path) as model:
        tokens = prompt(6, 50)
        generating = asyncio.ensure_future(answer(model.session(tokens)))
        await model.deliver([0, 1])
        await asyncio.sleep(0.02)
        generating.cancel()
        await asyncio.gather(generating, return_exceptions=True)
        again = asyncio.ensure_future(answer(model.session(tokens)))
        await model.deliver()
        assert ids(await again) == await model.expected(tokens)


@run_async
async def test_a_failure_reaches_who_waits_and_is_not_for_ever(kit: Kit, tmp_path: Path) -> None:
    """A full disk fails the session; once there is room, the next one is answered."""
    async with arriving(kit, tmp_path) as model:
        generating = asyncio.ensure_future(answer(model.session(prompt(7, 10))))
        await model.deliver([0])
        await model.source.fail(CapacityError("the disk is full", code="disk.full"))
        with pytest.raises(CapacityError, match="full"):
            await generating
        await model.source.fail(None)
        again = asyncio.ensure_future(answer(model.session(prompt(7, 10))))
        await model.deliver()
        assert ids(await again) == await model.expected(prompt(7, 10))


@run_async
async def test_a_complete_model_is_left_to_the_batching_stage(kit: Kit, tmp_path: Path) -> None:
    """After the last unit, prompts go in chunks and concurrent sessions in batches, as usual."""
    async with arriving(kit, tmp_path) as model:
        first = asyncio.ensure_future(answer(model.session(prompt(8, 12))))
        await model.deliver()
        await first
        assert isinstance(model.stage._inner, LocalStage)
        while model.stage.chunk_tokens > 512:
            await asyncio.sleep(0.001)
        both = await asyncio.gather(
            *(answer(model.session(prompt(20 + i, 9), n=4)) for i in range(2))
        )
        assert all(len(tokens) == 4 for tokens in both)


@run_async
async def test_a_prompt_that_waited_for_the_last_block_goes_in_chunks(
    kit: Kit, tmp_path: Path
) -> None:
    """It came as a whole, while the model was made ready: others still get their turn between."""
    async with arriving(kit, tmp_path) as model:
        steps: list[int] = []
        forward = model.span.forward

        def noted(slices: Sequence[Slice], *args: Any, **kwargs: Any) -> object:
            steps.append(max(len(one.tokens) for one in slices))
            return forward(slices, *args, **kwargs)

        model.span.forward = noted  # type: ignore[method-assign, assignment]
        async with model.stage._one_prompt:
            first = asyncio.ensure_future(answer(model.session(prompt(9, 12), n=1)))
            await model.deliver()
            while len(model.stage._loaded) < len(model.span.units):
                await asyncio.sleep(0.001)
            # Whoever makes it ready waits for its turn by now; this one comes after that.
            waiting = asyncio.ensure_future(answer(model.session(prompt(30, 1100))))
            await asyncio.sleep(0.1)
        await first
        assert ids(await waiting) == await model.expected(prompt(30, 1100))
        assert max(steps) == CHUNK_TOKENS
