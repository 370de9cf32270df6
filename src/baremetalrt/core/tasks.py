"""Work in the background that nobody waits for, and that does not die unseen.

Who starts such work owns it: a `Tasks` belongs to one object, which closes it. An error that nobody
expected is logged with its trace and counted; what else runs there goes on.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, Self, TypeVar

from baremetalrt.core.errors import BareMetalError

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("baremetalrt")
_MAX_PAUSE_S: Final = 300.0
# What has died of an unexpected error in this process, by what it was doing.
failures: Final[Counter[str]] = Counter()


def note_failure(what: str, error: BaseException) -> None:
    """Logs an unexpected error with its trace, and counts it."""
    failures[what] += 1
    _log.error("%s failed: %r", what, error, exc_info=error)


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread`, but over only when the call is: who is cancelled waits for it first.

    So that whoever counts what is being done, or holds what is used there, lets go of it not too early.
    """
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,))
        if not work.cancelled():
            work.exception()
        raise


class Tasks:
    """The background work of one owner. Use as an async context manager, or `close` it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, what: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs `work`; `what` says in the log what it was."""
        task = asyncio.get_running_loop().create_task(self._watched(what, work), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One that is ended before it has begun leaves its work as it is, and Python complains.
        task.add_done_callback(lambda _: work.close())
        return task

    def repeat(
        self, what: str, act: Callable[[], Awaitable[None]], pause_s: Callable[[], float]
    ) -> "asyncio.Task[None]":
        """Calls `act` again and again, with pauses. A round that fails is not the last one."""

        async def rounds() -> None:
            while True:
                try:
                    await act()
                except BareMetalError as error:
                    _log.error("%s: %s", what, error.message)
                except Exception as error:
                    note_failure(what, error)
                await asyncio.sleep(pause_s())

        return self.start(what, rounds())

    def persist(
        self,
        what: str,
        attempt: Callable[[], Awaitable[None]],
        *,
        goes_on: Callable[[BareMetalError], bool] = lambda error: True,
        first_pause_s: float = 5.0,
    ) -> "asyncio.Task[None]":
        """Calls `attempt` until it succeeds, with pauses that double; what fails alike is said once.

        `goes_on` says whether an error may pass.
        """

        async def attempts() -> None:
            said, pause_s = "", first_pause_s
            while True:
                try:
                    await attempt()
                    return
                except BareMetalError as error:
                    if error.message != said:
                        said = error.message
                        _log.error("%s: %s (%s)", what, said, error.hint or error.code)
                    if not goes_on(error):
                        return
                except Exception as error:
                    note_failure(what, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)

        return self.start(what, attempts())

    async def _watched(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BareMetalError as error:
            _log.error("%s: %s", what, error.message)
        except Exception as error:
            note_failure(what, error)

    async def finished(self) -> None:
        """Returns when nothing is running any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Ends everything that still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
