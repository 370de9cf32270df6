"""A stage: a span of blocks with a queue in front, so that concurrent sessions compute together."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.prefix_store import AdapterKey
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import CHUNK_TOKENS, Reads, Slice
from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterSet

T = TypeVar("T")

# The chunks of a prompt are smaller while others are decoding, so that they wait a fraction of a second
# and not several.
_SHARED_CHUNK_TOKENS: Final = 64
# More streams than this gain nothing on any processor measured and delay every one of them.
_MAX_STREAMS: Final = 32
_YIELD_S: Final = 0.05
_RESTORED: Final = object()


class Place(Protocol):
    """Where a session stands in one stage: how many tokens of its text are stored there."""

    @property
    def length(self) -> int: ...


class Stage(Protocol):
    """What a route is made of. Every call may be cancelled; the stage stays usable."""

    async def open(self, tokens: Sequence[int], capacity: int, owner: Owner = THIS_USER) -> Place:
        """Begins a text with room for `capacity` tokens; reuses what its owner has of its beginning."""

    async def grow(self, place: Place, capacity: int) -> None:
        """Makes room for `capacity` tokens."""

    async def truncate(self, place: Place, length: int) -> None:
        """Forgets all but the first `length` tokens."""

    async def forward(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        """Computes the next tokens of a text; see `Span.forward` for what comes back.

        The rows are the caller's, to read and to write to, until it waits for anything: the next step,
        whichever text it is of, may be computed into the same memory. Who needs them longer copies them.
        """

    def release(self, place: Place, *, keep: bool) -> None:
        """Ends a text; `keep` leaves it for later ones that begin alike."""

    @property
    def chunk_tokens(self) -> int:
        """How many tokens of a prompt the stage wants at once, as things are now."""


@runtime_checkable
class AdaptedStage(Protocol):
    """A stage that computes with adapters, too: `is_ready` says whether it does now."""

    @property
    def is_ready(self) -> bool: ...

    async def open_adapted(
        self,
        tokens: Sequence[int],
        capacity: int,
        adapters: "AdapterSet",
        owner: Owner = THIS_USER,
    ) -> Place:
        """`Stage.open`, for a text that is computed with adapters."""

    def unload_adapter(self, digest: str) -> None:
        """Gives back the memory of an adapter, once nobody uses it any more."""


@dataclass(slots=True)
class _Request:
    slice: Slice
    reads: Reads
    done: asyncio.Future[NDArray[np.float32]]

    @property
    def num_tokens(self) -> int:
        return len(self.slice.tokens)

    @property
    def kind(self) -> tuple[Reads, BlockSpan | None, AdapterKey]:
        """Steps of one kind are computed together."""
        sequence = self.slice.sequence
        return self.reads, sequence.part, sequence.adapters


class Computes(Protocol):
    """What a stage on this machine leads to; see `Span`, which has more than this."""

    @property
    def chunk_tokens(self) -> int: ...

    @property
    def prefixes(self) -> object | None: ...

    def restore(self, sequence: CachedSequence, tokens: Sequence[int]) -> Iterator[None]: ...

    def truncate(self, sequence: CachedSequence, length: int) -> None: ...

    def open(
        self, tokens: Sequence[int], capacity: int, *, owner: Owner = ...
    ) -> CachedSequence: ...

    def grow(self, sequence: CachedSequence, capacity: int) -> None: ...

    def release(self, sequence: CachedSequence, *, keep: bool) -> None: ...

    def forward(
        self, slices: Sequence[Slice], reads: Reads, *, part: BlockSpan | None = ...
    ) -> NDArray[np.float32]: ...


class DirectStage:
    """What one session computes with, at once and on the caller's thread.

    For a process with nobody else to serve: a queue and the waking of a thread cost a percent or two
    of a small model's speed.
    """

    def __init__(self, computes: Computes) -> None:
        self._computes = computes
        self._yielded_at = 0.0

    @property
    def chunk_tokens(self) -> int:
        return self._computes.chunk_tokens

    async def open(
        self, tokens: Sequence[int], capacity: int, owner: Owner = THIS_USER
    ) -> CachedSequence:
        return self._restored(self._computes.open(tokens, capacity, owner=owner), tokens)

    def _restored(self, sequence: CachedSequence, tokens: Sequence[int]) -> CachedSequence:
        for _ in self._computes.restore(sequence, tokens):
            pass
        return sequence

    async def grow(self, place: Place, capacity: int) -> None:
        self._computes.grow(_sequence(place), capacity)

    async def truncate(self, place: Place, length: int) -> None:
        self._computes.truncate(_sequence(place), length)

    async def forward(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        # The loop looks at signals, and at what else there is, a few times a second.
        now = time.monotonic()
        if now - self._yielded_at > _YIELD_S:
            self._yielded_at = now
            await asyncio.sleep(0)
        return self._computes.forward([Slice(_sequence(place), tokens, x_TD)], reads)

    def release(self, place: Place, *, keep: bool) -> None:
        self._computes.release(_sequence(place), keep=keep)


class SoloStage(DirectStage):
    """A span that one session uses, with adapters or without."""

    is_ready = True

    def __init__(self, span: Span) -> None:
        super().__init__(span)
        self._span = span

    async def open_adapted(
        self,
        tokens: Sequence[int],
        capacity: int,
        adapters: "AdapterSet",
        owner: Owner = THIS_USER,
    ) -> CachedSequence:
        sequence = self._span.open(tokens, capacity, adapters=adapters, owner=owner)
        return self._restored(sequence, tokens)

    def unload_adapter(self, digest: str) -> None:
        self._span.adapters.unload(digest)


class QueuedStage:
    """What computes on this machine, for any number of sessions.

    Everything that touches it runs on `worker`, which has one thread: the C library gets one
    caller, and a copy of cells can never overtake a step. Steps of one token that wait at the same
    time run as one batch; a longer one (prefill) runs between two batches, never two in a row while
    others wait to decode.
    """

    def __init__(self, computes: Computes, worker: ThreadPoolExecutor) -> None:
        self._computes = computes
        self._worker = worker
        self._decodes: deque[_Request] = deque()
        self._prefills: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._scheduled = False
        self._prefilled_last = False
        # A batch is done, and those who decode have not come back yet with their next token.
        self._just_decoded = False
        # why nothing is computed here any more
        self._abandoned: Exception | None = None

    @property
    def chunk_tokens(self) -> int:
        queued = len(self._decodes) + len(self._prefills) + len(self._running)
        wanted = self._computes.chunk_tokens
        # Where weights are read anew for each step, small steps help nobody.
        is_shared = (queued or self._just_decoded) and wanted <= CHUNK_TOKENS
        return _SHARED_CHUNK_TOKENS if is_shared else wanted

    async def open(
        self, tokens: Sequence[int], capacity: int, owner: Owner = THIS_USER
    ) -> CachedSequence:
        return await self._open(lambda: self._computes.open(tokens, capacity, owner=owner), tokens)

    async def _open(
        self, open_: Callable[[], CachedSequence], tokens: Sequence[int]
    ) -> CachedSequence:
        self._require_here()
        opening = self._worker.submit(open_)
        try:
            sequence = await asyncio.wrap_future(opening)
            restoring = self._computes.restore(sequence, tokens)
            if self._computes.prefixes is not None:
                # In pieces: others compute in between.
                while await self._submit(lambda: next(restoring, _RESTORED)) is not _RESTORED:
                    pass
            return sequence
        except BaseException:
            # The sequence may exist although nobody waits for it any more. At once, and not when the
            # loop hears of it: whoever opens next must find its cells free.
            self._worker.submit(self._release_unwanted, opening)
            raise

    def _release_unwanted(self, opened: "Future[CachedSequence]") -> None:
        if not opened.cancelled() and opened.exception() is None:
            self._computes.release(opened.result(), keep=True)

    async def grow(self, place: Place, capacity: int) -> None:
        await self._submit(lambda: self._computes.grow(_sequence(place), capacity))

    async def truncate(self, place: Place, length: int) -> None:
        await self._submit(lambda: self._computes.truncate(_sequence(place), length))

    def release(self, place: Place, *, keep: bool) -> None:
        sequence = _sequence(place)
        if self._abandoned is None:
            self._worker.submit(lambda: self._computes.release(sequence, keep=keep))

    def abandon(self, error: Exception) -> None:
        """Refuses everything from now on with this error, also to those who wait for a step to begin.

        What runs in the worker by then ends there: whatever is submitted afterwards comes after it.
        """
        self._abandoned = error
        for queue in (self._decodes, self._prefills):
            while queue:
                request = queue.popleft()
                if not request.done.done():
                    request.done.set_exception(error)

    def _require_here(self) -> None:
        if self._abandoned is not None:
            raise self._abandoned

    async def forward(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        self._require_here()
        done: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        request = _Request(Slice(_sequence(place), tokens, x_TD), reads, done)
        (self._decodes if request.num_tokens == 1 else self._prefills).append(request)
        self._schedule()
        return await done

    def _submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        self._require_here()
        return asyncio.wrap_future(self._worker.submit(call))

    # batching

    def _schedule(self) -> None:
        # By way of the loop: the sessions that the last batch woke submit before the next one starts.
        if not self._running and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = self._just_decoded = False
        batch = self._next_batch()
        if not batch:
            return
        self._running = batch
        loop = asyncio.get_running_loop()
        slices = [request.slice for request in batch]
        reads, part = batch[0].reads, slices[0].sequence.part
        future = self._worker.submit(self._computes.forward, slices, reads, part=part)
        future.add_done_callback(lambda f: _call_threadsafe(loop, self._finish, f))

    def _next_batch(self) -> list[_Request]:
        for queue in (self._decodes, self._prefills):
            abandoned = [request for request in queue if request.done.done()]
            for request in abandoned:
                queue.remove(request)
        if self._prefills and (self._prefilled_last is False or not self._decodes):
            self._prefilled_last = True
            return [self._prefills.popleft()]
        self._prefilled_last = False
        if not self._decodes:
            return []
        kind = self._decodes[0].kind
        batch = [r for r in self._decodes if r.kind == kind][:_MAX_STREAMS]
        for request in batch:
            self._decodes.remove(request)
        return batch

    def _finish(self, future: "Future[NDArray[np.float32]]") -> None:
        batch, self._running = self._running, []
        self._just_decoded = batch[0].num_tokens == 1
        error = RuntimeError("the stage was closed") if future.cancelled() else future.exception()
        rows = None if error else future.result()
        each = 0 if rows is None else len(rows) // len(batch)
        for i, request in enumerate(batch):
            if request.done.done():
                continue
            if rows is None:
                request.done.set_exception(error or RuntimeError("a step gave no result"))
            else:
                request.done.set_result(rows[i * each : (i + 1) * each])
        self._schedule()


class LocalStage(QueuedStage):
    """A span on this machine, for any number of sessions, with adapters or without."""

    is_ready = True

    def __init__(self, span: Span, worker: ThreadPoolExecutor) -> None:
        super().__init__(span, worker)
        self._span = span

    async def open(
        self,
        tokens: Sequence[int],
        capacity: int,
        owner: Owner = THIS_USER,
        part: BlockSpan | None = None,
        limit: int | None = None,
    ) -> CachedSequence:
        """See `Stage`; with `part`, the text goes through these blocks of the span alone.

        `limit`: cells that all texts of the owner's principal may hold.
        """
        return await self._open(
            lambda: self._span.open(tokens, capacity, part, owner=owner, limit=limit), tokens
        )

    async def open_adapted(
        self,
        tokens: Sequence[int],
        capacity: int,
        adapters: "AdapterSet",
        owner: Owner = THIS_USER,
    ) -> CachedSequence:
        return await self._open(
            lambda: self._span.open(tokens, capacity, adapters=adapters, owner=owner), tokens
        )

    def unload_adapter(self, digest: str) -> None:
        self._worker.submit(self._span.adapters.unload, digest)


def _sequence(place: Place) -> CachedSequence:
    if not isinstance(place, CachedSequence):
        raise TypeError("a local stage was given a place in another kind of stage")
    return place


def _call_threadsafe(
    loop: asyncio.AbstractEventLoop,
    function: Callable[["Future[NDArray[np.float32]]"], None],
    argument: "Future[NDArray[np.float32]]",
) -> None:
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        # The loop closed while the step ran: nobody is left to tell.
        if not loop.is_closed():
            raise


def not_ready() -> CapacityError:
    """Why a model that is not all here takes no adapter yet."""
    return CapacityError(
        "the model is still arriving; adapters are added once it is here",
        code="adapter.arriving",
        hint="wait for it, or ask without an adapter",
    )


def not_adapted() -> UsageError:
    """Why a model takes no adapter that runs on other machines, or whole."""
    return UsageError(
        "adapters are computed on this machine alone, not on peers, and not where a model runs whole",
        code="adapter.route",
        parameter="adapter",
        hint="use --route local, and a model that fits here and does not run whole: see `bmrt show`",
    )
