"""A model on two devices of one machine: the same tokens, and they go on when a device does not."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from baremetalrt.blocks.loaded_adapters import AdapterSet, WeightedAdapter
from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import MIB
from baremetalrt.devices.budget import MemoryLedger
from baremetalrt.native import backend
from baremetalrt.native.backend import BackendDevice, Buffer
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions, SampleOptions
from baremetalrt.node.text_keeping import save_texts
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel
from device_kit import SPARE, SpareDevice, add_spare
from session_kit import answer, assert_same_or_tie, ids, run_async
from tiny_adapters import random_adapter

_GREEDY = GenerationOptions(sampling=SampleOptions(temperature=0.0), max_tokens=20, ignore_end=True)
_WATCHED = replace(_GREEDY, top_logprobs=2)
_PROMPT = [7 * i % 900 + 300 for i in range(700)]
_ROOM = MemoryLedger(lambda: 2000 * MIB)


def _opening(path: Path) -> Opening:
    return Opening(StoredModel("talking", path, is_default=False))


@pytest.fixture
def spare(monkeypatch: pytest.MonkeyPatch) -> SpareDevice:
    return add_spare(monkeypatch)


@pytest.fixture
def opening(talking_model: Path) -> Opening:
    return _opening(talking_model)


@contextmanager
def loaded(opening: Opening, **options: object) -> Iterator[tuple[Node, Model]]:
    given = {"context": 1024, "repack": False, "num_threads": 2, **options}
    node = Node(ModelOptions(**given), ledger=_ROOM, serves=True)  # type: ignore[arg-type]
    try:
        # Each for itself: what has ended takes its vocabulary along.
        yield node, node.load(_opening(opening.stored.path))
    finally:
        node.close()


async def _answer(model: Model, prompt: list[int] = _PROMPT) -> list[int | None]:
    return ids(await answer(model.session(prompt, _GREEDY)))


def _blocks(model: Model) -> list[tuple[str, int, int]]:
    return [(s.device.name.lower(), s.blocks.start, s.blocks.end) for s in model.spans]


# Room for one block on the spare device, and not for the head.
_LITTLE = ((SPARE, 3 * MIB),)
_BOTH = {"device": f"cpu,{SPARE}", "device_memory": _LITTLE}


@pytest.fixture(scope="module")
def alone(talking_model: Path) -> list[int | None]:
    """What the host answers by itself."""
    with loaded(_opening(talking_model), device="cpu") as (_, model):
        return asyncio.run(_answer(model))


@run_async
async def test_two_devices_answer_as_one(
    opening: Opening, spare: SpareDevice, alone: list[int | None]
) -> None:
    with loaded(opening, **_BOTH) as (_, model):
        assert _blocks(model) == [(SPARE, 0, 1), ("cpu", 1, 2)]
        assert await _answer(model) == alone
        assert spare.steps > 20
        # The second time, both know the prompt.
        session = model.session(_PROMPT, _GREEDY)
        assert ids(await answer(session)) == alone
        assert session.stats.cached_tokens > 600


@run_async
async def test_all_on_the_faster_device(
    opening: Opening, spare: SpareDevice, alone: list[int | None]
) -> None:
    with loaded(opening) as (_, model):
        assert _blocks(model) == [(SPARE, 0, 2)]
        assert await _answer(model) == alone
    spare.byte_s = 1.0
    with loaded(opening) as (_, model):
        assert _blocks(model) == [("cpu", 0, 2)]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 9])
@run_async
async def test_a_lost_device_changes_no_token(
    opening: Opening,
    spare: SpareDevice,
    alone: list[int | None],
    steps: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It fails in the prompt, between chunks of it, or in the answer: others go on with its blocks."""
    with loaded(opening, **_BOTH, max_sessions=3) as (_, model), caplog.at_level(logging.WARNING):
        lost = model.spans[0]
        spare.fail_after(steps)
        assert await _answer(model) == alone
        assert _blocks(model) == [("cpu", 0, 1), ("cpu", 1, 2)]
        assert f"{SPARE} was pulled out; blocks 0:1 go on without it" in caplog.text
        assert lost not in model.spans
        assert await _answer(model) == alone
        assert spare.steps == spare.steps_left


@run_async
async def test_texts_at_once_all_go_on(opening: Opening, spare: SpareDevice) -> None:
    prompts = [[(seed + 5) * i % 900 + 300 for i in range(200 + 40 * seed)] for seed in range(4)]
    with loaded(opening, device="cpu", max_sessions=4) as (_, model):
        expected = [await answer(model.session(prompt, _WATCHED)) for prompt in prompts]
    with loaded(opening, **_BOTH, max_sessions=4) as (_, model):
        spare.fail_after(12)
        answering = (answer(model.session(prompt, _WATCHED)) for prompt in prompts)
        for ours, alone in zip(await asyncio.gather(*answering), expected, strict=True):
            assert_same_or_tie(ours, alone)
        assert _blocks(model) == [("cpu", 0, 1), ("cpu", 1, 2)]


@run_async
async def test_who_gives_up_while_blocks_move(
    opening: Opening, spare: SpareDevice, alone: list[int | None]
) -> None:
    with loaded(opening, **_BOTH) as (_, model):
        spare.fail_after(3)
        for _ in range(6):
            answering = asyncio.ensure_future(_answer(model))
            await asyncio.sleep(0.01)
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        assert await _answer(model) == alone
        assert _blocks(model) == [("cpu", 0, 1), ("cpu", 1, 2)]


@run_async
async def test_a_lost_device_is_not_tried_again(opening: Opening, spare: SpareDevice) -> None:
    with loaded(opening) as (node, model):
        spare.fail_after(0)
        await _answer(model)
        node.end(node.take("talking"))
        assert _blocks(node.load(_opening(opening.stored.path))) == [("cpu", 0, 2)]


def test_memory_that_a_device_refuses(
    opening: Opening, spare: SpareDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it has room, and gives none: the host has all blocks, unless it was not asked."""
    monkeypatch.setattr(backend, "zeroed_buffer", _refused_for(spare))
    with loaded(opening) as (_, model):
        assert _blocks(model) == [("cpu", 0, 2)]
    with pytest.raises(CapacityError), loaded(opening, device=SPARE):
        pass


def _refused_for(spare: SpareDevice) -> Callable[[BackendDevice, int], Buffer | object]:
    real = backend.zeroed_buffer

    def allocate(device: BackendDevice, num_bytes: int) -> object:
        if device == spare.device:
            raise CapacityError("no memory", code="native.allocation")
        return real(device, num_bytes)

    return allocate


def test_what_a_device_cannot_compute(
    opening: Opening, spare: SpareDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "unsupported_operation", lambda device, graph: "FLASH_ATTN_EXT")
    with loaded(opening) as (_, model):
        assert _blocks(model) == [("cpu", 0, 2)]
    with (
        pytest.raises(UsageError, match="FLASH_ATTN_EXT") as caught,
        loaded(opening, device=SPARE),
    ):
        pass
    assert caught.value.code == "device.unsupported"


def test_a_device_that_was_tried_and_failed(opening: Opening, spare: SpareDevice) -> None:
    spare.wrong = "it ended with SIGSEGV"
    with loaded(opening) as (node, model):
        assert _blocks(model) == [("cpu", 0, 2)]
        span, _ = node.host(opening.file, BlockSpan(0, 1), 256)
        assert span.device.is_host
    with pytest.raises(UsageError, match="SIGSEGV") as caught, loaded(opening, device=SPARE):
        pass
    assert caught.value.code == "device.unsupported"


def test_too_little_room_everywhere_but_here(opening: Opening, spare: SpareDevice) -> None:
    with loaded(opening, device_memory=((SPARE, MIB),)) as (_, model):
        assert _blocks(model) == [("cpu", 0, 2)]
    with (
        pytest.raises(CapacityError) as caught,
        loaded(opening, device=SPARE, device_memory=((SPARE, MIB),)),
    ):
        pass
    assert caught.value.code in ("device.memory", "context.memory")


@run_async
async def test_adapters_on_two_devices(opening: Opening, spare: SpareDevice) -> None:
    """Those of the embedding, too, of which a device has no rows."""
    adapter = random_adapter(opening.stored.path, strength=2.0)
    adapters = AdapterSet((WeightedAdapter(adapter),))
    answers = []
    for options in ({"device": "cpu"}, _BOTH):
        with loaded(opening, **options) as (_, model):
            adapted = model.with_adapters(adapters, "tiny")
            answers.append(await _answer(adapted))
            assert answers[-1] != await _answer(model)
    assert answers[0] == answers[1]


@run_async
async def test_texts_are_kept_on_disk_by_every_device(
    opening: Opening,
    spare: SpareDevice,
    alone: list[int | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    for cached in (0, len(_PROMPT) - 1):
        with loaded(opening, **_BOTH, keeps_prefixes=True) as (node, model):
            session = model.session(_PROMPT, _GREEDY)
            assert ids(await answer(session)) == alone
            assert session.stats.cached_tokens == cached
            await save_texts(node, model.spans)


def test_hosted_blocks_go_where_they_are_fastest(opening: Opening, spare: SpareDevice) -> None:
    file: GGUFFile = opening.file
    with loaded(opening, device="cpu") as (_, _), loaded(opening) as (node, _):
        span, _ = node.host(file, BlockSpan(0, 1), 256)
        assert span.device == spare.device
        node.drop(span)
