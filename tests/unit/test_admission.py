"""Some requests run, some wait in order, the rest are told at once."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.serve.admission import Admission


def run_async(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Guest:
    """A request that holds its place until it is told to leave."""

    def __init__(self, admission: Admission, owner: Owner) -> None:
        self.inside = False
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(admission, owner))

    async def _visit(self, admission: Admission, owner: Owner) -> None:
        async with admission.slot(owner):
            self.inside = True
            await self.leave.wait()

    async def left(self) -> None:
        self.leave.set()
        await self.task


async def settle() -> None:
    """Lets every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def guests(admission: Admission, count: int, owner: Owner = THIS_USER) -> list[Guest]:
    arrived = []
    for _ in range(count):
        arrived.append(Guest(admission, owner))
        await settle()
    return arrived


@run_async
async def test_places_are_given_in_order() -> None:
    """Whoever came first goes first, and never more than `max_active` are inside."""
    admission = Admission(max_active=2, max_waiting=3)
    party = await guests(admission, 5)
    for i, guest in enumerate(party):
        assert [g.inside for g in party] == [n < i + 2 for n in range(5)]
        assert (admission.active, admission.waiting) == (min(2, 5 - i), max(0, 3 - i))
        await guest.left()
        await settle()
    assert (admission.active, admission.waiting) == (0, 0)


@run_async
async def test_a_full_queue_refuses_at_once() -> None:
    """The refusal is an error to retry, and costs nobody a place."""
    admission = Admission(max_active=1, max_waiting=1)
    first, second = await guests(admission, 2)
    with pytest.raises(CapacityError) as caught:
        async with admission.slot():
            pass
    assert caught.value.code == "queue.full"
    assert (admission.active, admission.waiting) == (1, 1)
    await first.left()
    await second.left()


@run_async
async def test_who_gives_up_waiting_is_skipped() -> None:
    """A cancelled request leaves the queue, and the next one moves up."""
    admission = Admission(max_active=1, max_waiting=2)
    first, second, third = await guests(admission, 3)
    second.task.cancel()
    await settle()
    assert admission.waiting == 1
    await first.left()
    await settle()
    assert third.inside and not second.inside
    await third.left()
    assert admission.active == 0


@run_async
async def test_a_place_handed_to_one_who_just_left_goes_on_to_the_next() -> None:
    """Cancelled in the moment between being called and entering, a request loses no place."""
    admission = Admission(max_active=1, max_waiting=2)
    first, second, third = await guests(admission, 3)
    first.leave.set()
    while not first.task.done():
        await asyncio.sleep(0)
    second.task.cancel()
    await settle()
    assert third.inside and not second.inside
    await third.left()
    assert (admission.active, admission.waiting) == (0, 0)


@run_async
async def test_an_error_inside_frees_the_place() -> None:
    """A request that fails leaves like any other."""
    admission = Admission(max_active=1, max_waiting=0)
    with pytest.raises(ZeroDivisionError):
        async with admission.slot():
            raise ZeroDivisionError
    assert admission.active == 0


@run_async
async def test_owners_take_turns() -> None:
    """Who asks for much waits for itself; one plain question of another is next."""
    now = 0.0
    admission = Admission(max_active=1, max_waiting=8, clock=lambda: now)
    greedy = await guests(admission, 6, Owner("key:a"))
    (other,) = await guests(admission, 1, Owner("key:b"))
    now = 1.0
    await greedy[0].left()
    await settle()
    assert other.inside and not any(guest.inside for guest in greedy[1:])
    now = 9.0
    for guest in (other, *greedy[1:]):
        await guest.left()
    assert (admission.active, admission.waiting) == (0, 0)


@run_async
async def test_a_full_queue_has_room_for_who_has_nothing_in_it() -> None:
    """The last of who fills it is refused instead, as if there had been no room for it."""
    admission = Admission(max_active=1, max_waiting=3)
    greedy = await guests(admission, 4, Owner("key:a"))
    (other,) = await guests(admission, 1, Owner("key:b"))
    with pytest.raises(CapacityError) as caught:
        await greedy[3].task
    assert caught.value.code == "queue.full"
    assert admission.waiting == 3 and not other.task.done()
    for guest in (greedy[0], other, *greedy[1:3]):
        await guest.left()
    assert (admission.active, admission.waiting) == (0, 0)
