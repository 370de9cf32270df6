"""Texts over devices that fail at any step, with callers that give up at any wait: numbers are right."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.native.backend import BackendDevice, DeviceError
from baremetalrt.session.spread_stage import Loss, SpreadStage
from baremetalrt.session.stage import LocalStage

CHUNK = 4


@dataclass
class Held:
    """A text in a device: what was computed of it there."""

    tokens: list[int]
    is_open: bool = True

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass
class FakeStage:
    """Adds up what it is given, as far as it has it all; fails when its device has no steps left."""

    device: BackendDevice
    steps: list[int | None]
    chunk_tokens: int = CHUNK
    is_ready: bool = True
    abandoned: Exception | None = None
    kept: list[list[int]] = field(default_factory=list)
    num_open: int = 0

    def _step(self) -> None:
        if self.abandoned:
            raise self.abandoned
        left = self.steps[0]
        if left is not None:
            if left == 0:
                raise DeviceError(self.device, "was lost")
            self.steps[0] = left - 1

    async def open(self, tokens: Sequence[int], capacity: int, owner: Owner = THIS_USER) -> Held:
        if self.abandoned:
            raise self.abandoned
        await asyncio.sleep(0)
        known = max((_common(k, tokens) for k in self.kept), default=0)
        self.num_open += 1
        return Held(list(tokens[: min(known, max(0, len(tokens) - 1))]))

    async def grow(self, place: Held, capacity: int) -> None:
        await asyncio.sleep(0)
        self._step()

    async def truncate(self, place: Held, length: int) -> None:
        assert place.is_open
        await asyncio.sleep(0)
        # A stage may forget more than it is asked to.
        del place.tokens[max(0, length - length % 3) if len(place.tokens) > length else length :]

    async def forward(
        self, place: Held, tokens: Sequence[int], x_TD: NDArray[np.float32] | None, reads: str
    ) -> NDArray[np.float32]:
        assert place.is_open and tokens
        await asyncio.sleep(0)
        self._step()
        below = [0.0] * len(tokens) if x_TD is None else x_TD[:, 0].tolist()
        rows = []
        for token, x in zip(tokens, below, strict=True):
            place.tokens.append(token)
            rows.append([x + _value(place.tokens)])
        return np.array(rows, np.float32)

    def release(self, place: Held, *, keep: bool) -> None:
        assert place.is_open
        place.is_open = False
        if self.abandoned is None:
            self.num_open -= 1
        if keep:
            self.kept.append(place.tokens)

    def abandon(self, error: Exception) -> None:
        self.abandoned = error


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _value(tokens: Sequence[int]) -> int:
    """What a block makes of a text so far: another number for each text."""
    value = 0
    for token in tokens:
        value = (31 * value + token + 1) % 9973
    return value


def _device(name: str) -> BackendDevice:
    return BackendDevice(
        pointer=0, name=name, description="", kind="gpu" if name != "cpu" else "cpu"
    )


class Machine:
    """Three devices in a row, two of which may fail; the host stands in for them."""

    def __init__(self, steps: Sequence[int | None]) -> None:
        self.stages = [FakeStage(_device(f"gpu{i}"), [left]) for i, left in enumerate(steps)]
        self.stages.append(FakeStage(_device("cpu"), [None]))
        self.all = list(self.stages)
        self.stage = SpreadStage(self.as_local(), self.replace)

    def as_local(self) -> Sequence[LocalStage]:
        return cast(Sequence[LocalStage], tuple(self.stages))

    async def replace(self, loss: Loss) -> Sequence[LocalStage]:
        for i, one in enumerate(self.stages):
            if one.device.name == loss.device:
                one.abandon(loss)
                await asyncio.sleep(0)
                self.stages[i] = FakeStage(_device("cpu"), [None])
                self.all.append(self.stages[i])
        return self.as_local()


@dataclass(frozen=True)
class Plan:
    """A caller: a prompt, what follows, after how many turns of the loop it gives up, if ever."""

    prompt: list[int]
    then: list[int]
    back_to: int | None
    gives_up: int | None


PLANS = st.builds(
    Plan,
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    then=st.lists(st.integers(0, 3), max_size=6),
    back_to=st.none() | st.integers(0, 8),
    gives_up=st.none() | st.integers(0, 40),
)


async def _text(stage: SpreadStage, plan: Plan) -> None:
    """Prompt, answer, a look back, and the answer once more: all rows are those of the text."""
    place = await stage.open(plan.prompt, 64)
    text = list(plan.prompt[: place.length])

    async def on(tokens: Sequence[int]) -> None:
        rows = await stage.forward(place, tokens, None, "last")
        text.extend(tokens)
        assert rows[-1, 0] == 3 * _value(text)
        assert place.length == len(text)

    try:
        while place.length < len(plan.prompt):
            await on(plan.prompt[place.length : place.length + CHUNK])
        await stage.grow(place, 80)
        for token in plan.then:
            await on([token])
        if plan.back_to is not None and plan.back_to < len(text):
            await stage.truncate(place, plan.back_to)
            assert place.length <= plan.back_to
            del text[place.length :]
            for token in (*plan.prompt, *plan.then):
                await on([token])
    finally:
        stage.release(place, keep=True)


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.none() | st.integers(0, 30), min_size=2, max_size=2),
    plans=st.lists(PLANS, min_size=1, max_size=4),
)
def test_every_row_is_that_of_the_text(steps: list[int | None], plans: list[Plan]) -> None:
    async def run() -> None:
        machine = Machine(steps)
        tasks: list[asyncio.Task[Any]] = []
        others: list[asyncio.Task[Any]] = []
        for plan in plans:
            task = asyncio.ensure_future(_text(machine.stage, plan))
            tasks.append(task)
            if plan.gives_up is not None:
                others.append(asyncio.ensure_future(_cancel(task, plan.gives_up)))
        done = await asyncio.gather(*tasks, *others, return_exceptions=True)
        for plan, result in zip(plans, done, strict=False):
            if isinstance(result, BaseException):
                assert isinstance(result, asyncio.CancelledError) and plan.gives_up is not None, (
                    result
                )
        # Whoever ended has left every device, too.
        assert not any(one.num_open for one in machine.all if one.abandoned is None)

    asyncio.run(run())


async def _cancel(task: "asyncio.Task[Any]", turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
