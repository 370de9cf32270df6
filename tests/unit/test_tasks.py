"""Work in the background: who owns it ends it, and nothing of it is left."""

import asyncio
import gc

import pytest

from baremetalrt.core.tasks import Tasks


def test_work_that_is_ended_before_it_has_begun_leaves_nothing(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """No coroutine that was never awaited."""

    async def work() -> None:
        raise AssertionError("it has begun")

    async def end_at_once() -> None:
        async with Tasks() as tasks:
            tasks.start("work", work())

    asyncio.run(end_at_once())
    gc.collect()
    assert not [one for one in recwarn if "never awaited" in str(one.message)]
