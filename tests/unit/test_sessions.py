"""Sessions: what they share, what they must not share, and how they end."""

import asyncio
import gc
import json
import weakref
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Reads, Slice
from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session import session as session_module
from baremetalrt.session.grammar import from_json_schema
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.route import Route
from baremetalrt.session.session import GenerationOptions, Session, Token
from baremetalrt.weights.store import find_model
from session_kit import Kit, answer, assert_same_or_tie, ids, prompt, run_async, text


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The default model, for eight sessions at once."""
    node = Node(ModelOptions(max_sessions=8, context=1024, num_threads=1))
    yield node.load(Opening(find_model(None)))
    node.close()


@pytest.fixture(scope="module")
def kit(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    kit = Kit(tmp_path_factory.mktemp("tiny"), model.tokenizer)
    yield kit
    kit.close()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Of every step that is computed from now on, how many tokens each session contributes."""
    computed: list[list[int]] = []
    forward = Span.forward

    def counted(
        self: Span, slices: Sequence[Slice], reads: Reads, *, part: BlockSpan | None = None
    ) -> NDArray[np.float32]:
        computed.append([len(s.tokens) for s in slices])
        return forward(self, slices, reads, part=part)

    monkeypatch.setattr(Span, "forward", counted)
    return computed


async def still_active(route: Route, span: Span) -> int:
    """How many sequences sessions hold, once everything that was given up is released."""
    # Two calls, one after the other: a cancelled `open` ends first, its release comes after it.
    places = [await route.open([1], 1), await route.open([1], 1)]
    count = sum(s.active for s in span.cache.sequences.sequences) - len(places)
    for place in places:
        route.release(place, keep=False)
    return count


# sharing


@run_async
async def test_a_common_prefix_is_computed_once(kit: Kit, steps: list[list[int]]) -> None:
    """Only what is new is computed, also after another text, and the answer is the same."""
    span = kit.span()
    route = kit.solo(span)
    first = prompt(0, 100)
    said = ids(await answer(kit.session(route, first, max_tokens=8, ignore_end=True)))
    branch = first[:80] + prompt(1, 20)
    followed = first + [t for t in said if t is not None] + prompt(2, 30)
    for text_, known in ((followed, 107), (branch, 80)):
        steps.clear()
        session = kit.session(route, text_, max_tokens=4, top_logprobs=2, ignore_end=True)
        tokens = await answer(session)
        assert session.stats.cached_tokens == known
        assert steps == [[len(text_) - known], [1], [1], [1]]
        fresh = kit.session(kit.solo(), text_, max_tokens=4, top_logprobs=2, ignore_end=True)
        assert_same_or_tie(tokens, await answer(fresh))
        assert fresh.stats.cached_tokens == 0


@run_async
async def test_eight_sessions_at_once_answer_as_if_alone(model: Model) -> None:
    """The default model, with prompts of very different length."""
    words = "The quick brown fox jumps over the lazy dog and then " * 8
    prompts = [model.encode(words[4 * i : 15 + 50 * i]) for i in range(8)]
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.0), max_tokens=16, top_logprobs=2, ignore_end=True
    )
    alone = [await answer(model.session(p, options)) for p in prompts]
    together = await asyncio.gather(*(answer(model.session(p, options)) for p in prompts))
    for ours, expected in zip(together, alone, strict=True):
        assert_same_or_tie(ours, expected)


@run_async
async def test_concurrent_decodes_run_as_one_batch(kit: Kit, steps: list[list[int]]) -> None:
    """Once all have begun, every step takes a token from each of them."""
    count, length = 8, 20
    route = kit.shared()
    sessions = [
        kit.session(route, prompt(i, 10 + i), max_tokens=length, ignore_end=True)
        for i in range(count)
    ]
    await asyncio.gather(*map(answer, sessions))
    decodes = [len(step) for step in steps if step[0] == 1]
    assert sum(decodes) == count * (length - 1)
    assert max(decodes) == count
    # The first begins while the others are prefilled one by one; from then on all step together.
    assert len(decodes) <= length - 1 + count


@run_async
async def test_a_long_prompt_lets_others_decode(kit: Kit, steps: list[list[int]]) -> None:
    """A prefill beside a decode is cut small, and never takes two turns in a row."""
    route = kit.shared()
    begun = asyncio.Event()

    async def talk() -> None:
        async for _ in kit.session(route, prompt(0, 10), max_tokens=60, ignore_end=True).generate():
            begun.set()

    talking = asyncio.create_task(talk())
    await begun.wait()
    steps.clear()
    await answer(kit.session(route, prompt(1, 400), max_tokens=1))
    prefills = [i for i, step in enumerate(steps) if step[0] > 1]
    assert len(prefills) == 7 and max(step[0] for step in steps) == 64
    assert all(b > a + 1 for a, b in pairwise(prefills))
    await talking


@run_async
async def test_one_thread_or_a_queue_give_the_same(kit: Kit) -> None:
    """A session on `SoloStage` and one alone on `LocalStage`: equal to the last digit."""
    solo, shared = [
        await answer(
            kit.session(route, prompt(0, 90), max_tokens=12, top_logprobs=3, ignore_end=True)
        )
        for route in (kit.solo(), kit.shared())
    ]
    assert solo == shared


@run_async
async def test_stages_in_a_row_answer_like_one(kit: Kit) -> None:
    """They agree on the shorter prefix where one has forgotten what the other still knows."""
    first, second = kit.span(BlockSpan(0, 2)), kit.span(BlockSpan(2, 3))
    route = kit.shared(first, second)
    options = {"max_tokens": 6, "top_logprobs": 2, "ignore_end": True}
    expected = await answer(kit.session(kit.solo(), prompt(0, 40), **options))
    assert await answer(kit.session(route, prompt(0, 40), **options)) == expected
    (kept,) = second.cache.sequences.sequences
    del kept.tokens[25:]
    again = kit.session(route, prompt(0, 40), **options)
    assert_same_or_tie(await answer(again), expected)
    assert again.stats.cached_tokens == 25


# leaving


@run_async
async def test_cancelling_one_session_leaves_the_others(kit: Kit) -> None:
    """Its cells can be used again, and the others say what they would have said."""
    span = kit.span(num_cells=2048)
    route = kit.shared(span)
    options = {"max_tokens": 24, "top_logprobs": 2, "ignore_end": True}
    prompts = [prompt(i, 30) for i in range(3)]
    alone = [await answer(kit.session(kit.solo(), p, **options)) for p in prompts]
    midway = asyncio.Event()

    async def doomed() -> None:
        seen = 0
        async with aclosing(kit.session(route, prompt(9, 30), **options).generate()) as tokens:
            async for _ in tokens:
                seen += 1
                if seen == 8:
                    midway.set()

    leaving = asyncio.create_task(doomed())
    staying = [asyncio.create_task(answer(kit.session(route, p, **options))) for p in prompts]
    await midway.wait()
    leaving.cancel()
    for task, expected in zip(staying, alone, strict=True):
        assert_same_or_tie(await task, expected)
    assert leaving.cancelled()
    assert await still_active(route, span) == 0
    await route.open([1], 2048)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 10, 100, 1000, 4000])
@run_async
async def test_a_session_can_be_cancelled_at_any_time(kit: Kit, turns: int) -> None:
    """While it opens, is prefilled, decodes or waits: nothing of it stays taken."""
    span = kit.span(num_cells=1024)
    route = kit.shared(span)
    task = asyncio.create_task(answer(kit.session(route, prompt(0, 200), max_tokens=300)))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await still_active(route, span) == 0
    await route.open([1], 1024)


# limits


@pytest.mark.parametrize("length", [64, 80])
def test_what_exceeds_the_context_is_refused(kit: Kit, length: int) -> None:
    """Before anything is computed, and naming what to change."""
    with pytest.raises(UsageError) as caught:
        kit.session(kit.solo(), prompt(0, length), context=64)
    assert caught.value.code == "context.exceeded"
    assert caught.value.parameter == "messages"


@pytest.mark.parametrize(("length", "max_tokens"), [(63, None), (63, 1), (60, 4), (20, None)])
@run_async
async def test_the_context_can_be_filled(kit: Kit, length: int, max_tokens: int | None) -> None:
    """To its last token, which ends the answer by its length."""
    session = kit.session(
        kit.solo(), prompt(0, length), context=64, max_tokens=max_tokens, ignore_end=True
    )
    tokens = await answer(session)
    assert len(tokens) == session.stats.generated_tokens == 64 - length
    assert session.finish_reason == "length"


@run_async
async def test_growing_beyond_the_reserve_changes_nothing(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long answer, whose cells must move on the way, is the one with all its room from the start."""
    length = 1400

    async def generate(span: Span) -> tuple[list[Token], list[int]]:
        """The answer, and where its sequence lay at its begin and end."""
        session = kit.session(kit.solo(span), prompt(0, 20), max_tokens=length, ignore_end=True)
        cells, tokens = [], []
        async for token in session.generate():
            tokens.append(token)
            sequence, *_ = span.cache.sequences.sequences
            if len(tokens) == 1:
                # Right behind it, so that it cannot grow where it is.
                span.open([1], 256)
            if len(tokens) in (1, length):
                cells.append(sequence.first_cell)
        return tokens, cells

    moved, (before, after) = await generate(kit.span())
    assert before != after
    monkeypatch.setattr(session_module, "_RESERVE_TOKENS", length)
    whole, (before, after) = await generate(kit.span())
    assert before == after
    assert moved == whole and len(whole) == length


# what is said


@run_async
async def test_a_seed_reproduces_an_answer(kit: Kit) -> None:
    """The same seed says the same again, another one something else."""
    route = kit.solo()

    async def say(seed: int) -> list[Token]:
        sampling = SampleOptions(temperature=1.5, seed=seed)
        return await answer(kit.session(route, prompt(0, 12), sampling=sampling, max_tokens=20))

    first = await say(5)
    assert await say(5) == first
    assert await say(6) != first


@pytest.mark.parametrize("seed", range(4))
@run_async
async def test_a_schema_holds_whatever_the_model_wants(kit: Kit, seed: int) -> None:
    """A model of random numbers, drawn from at random, still writes the JSON that was asked for."""
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "grün", 7]},
            "count": {"type": "integer", "minimum": 3, "maximum": 12},
            "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        },
        "required": ["colour", "count", "flags"],
        "additionalProperties": False,
    }
    session = kit.session(
        kit.solo(),
        prompt(seed, 12),
        sampling=SampleOptions(temperature=2.0, seed=seed, top_k=0, top_p=1.0, min_p=0.0),
        grammar=from_json_schema(schema),
        max_tokens=200,
    )
    value = json.loads(text(await answer(session)))
    assert session.finish_reason == "stop"
    assert set(value) == {"colour", "count", "flags"}
    assert value["colour"] in ("red", "grün", 7) and 3 <= value["count"] <= 12
    assert 2 <= len(value["flags"]) <= 3 and {type(flag) for flag in value["flags"]} == {bool}


@run_async
async def test_stop_strings_are_not_shown(model: Model) -> None:
    """A stop that begins and ends inside of tokens cuts the answer there; the model says no more."""
    start = model.encode("Once upon a time, in a small village,")

    async def tell(*stop: str) -> tuple[list[Token], Session]:
        sampling = SampleOptions(temperature=0.0)
        session = model.session(
            start, GenerationOptions(sampling=sampling, max_tokens=24, stop=stop)
        )
        return await answer(session), session

    story, _ = await tell()
    whole = text(story)
    stop = whole[31:41]
    told, session = await tell("no such words", stop)
    assert text(told) == whole[: whole.find(stop)]
    assert session.finish_reason == "stop" and len(told) < len(story)
    # What only begins like a stop is shown in the end.
    told, session = await tell(whole[-4:] + "and more")
    assert (text(told), session.finish_reason) == (whole, "length")


def test_garbage_of_a_model_is_collected_when_the_next_one_loads() -> None:
    """What is loaded is kept out of the collector; what has gone since is not kept with it."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

    def load() -> None:
        node = Node(ModelOptions(context=256, num_threads=1))
        node.load(Opening(find_model(None)))
        node.close()

    there = Cycle()
    seen = weakref.ref(there)
    load()
    del there
    gc.collect()
    assert seen() is not None
    load()
    assert seen() is None
