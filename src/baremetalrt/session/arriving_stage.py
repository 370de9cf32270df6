"""A stage whose weights are still arriving: block by block, prompts follow behind the download."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.inventory import Unit
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Reads, Slice
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.core.tasks import Tasks
from baremetalrt.session.stage import LocalStage, Place, not_ready

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterSet

T = TypeVar("T")

_WHOLE_PROMPT: Final = 1 << 30


class WeightSource(Protocol):
    """Where weights arrive from."""

    async def wait_for(self, ranges: Sequence[ByteRange]) -> None:
        """Returns once these bytes are in the file, and are the right ones."""

    def has(self, ranges: Sequence[ByteRange]) -> bool:
        """Whether they are already."""


class ArrivingStage:
    """Computes a prompt through every block that is there, and waits for the next one.

    While blocks are missing, whole prompts go through one at a time: all of a prompt through block 0,
    then through block 1, so that the last block to arrive is the last thing to be computed. Once the
    span is complete, everything is left to `inner`.
    """

    def __init__(self, span: Span, worker: ThreadPoolExecutor, source: WeightSource) -> None:
        self._span = span
        self._worker = worker
        self._source = source
        self._inner = LocalStage(span, worker)
        self._loaded: set[Unit] = set()
        self._is_complete = False
        self._changed = asyncio.Condition()
        self._one_prompt = asyncio.Lock()
        self._loading: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._failure: BaseException | None = None

    @property
    def chunk_tokens(self) -> int:
        return self._inner.chunk_tokens if self._is_complete else _WHOLE_PROMPT

    async def open(
        self, tokens: Sequence[int], capacity: int, owner: Owner = THIS_USER
    ) -> CachedSequence:
        self._load_in_background()
        return await self._inner.open(tokens, capacity, owner)

    async def open_adapted(
        self,
        tokens: Sequence[int],
        capacity: int,
        adapters: "AdapterSet",
        owner: Owner = THIS_USER,
    ) -> CachedSequence:
        if not self._is_complete:
            raise not_ready()
        return await self._inner.open_adapted(tokens, capacity, adapters, owner)

    @property
    def is_ready(self) -> bool:
        """Whether all of the model is here: adapters wait for that."""
        return self._is_complete

    def unload_adapter(self, digest: str) -> None:
        self._inner.unload_adapter(digest)

    async def grow(self, place: Place, capacity: int) -> None:
        await self._inner.grow(place, capacity)

    async def truncate(self, place: Place, length: int) -> None:
        await self._inner.truncate(place, length)

    def release(self, place: Place, *, keep: bool) -> None:
        self._inner.release(place, keep=keep)

    async def forward(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        if not self._is_complete:
            async with self._one_prompt:
                if not self._is_complete:
                    return await self._follow(place, tokens, x_TD, reads)
        return await self._in_chunks(place, tokens, x_TD, reads)

    async def _in_chunks(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        """A step of any length, as the complete stage takes it: a whole prompt came before it was."""
        rows, start = [], 0
        while len(tokens) - start > (size := self._inner.chunk_tokens):
            x_chunk = None if x_TD is None else x_TD[start : start + size]
            wants: Reads = "none" if reads == "last" else reads
            chunk = await self._inner.forward(place, tokens[start : start + size], x_chunk, wants)
            # Copied: the next step, whosever it is, writes its result to the same place.
            rows.append(chunk.copy())
            start += size
        x_chunk = None if x_TD is None else x_TD[start:]
        rows.append(await self._inner.forward(place, tokens[start:], x_chunk, reads))
        read = [r for r in rows if len(r)]
        return np.concatenate(read) if len(read) > 1 else rows[-1]

    async def close(self) -> None:
        """Stops waiting for weights."""
        await self._tasks.close()

    # following the download

    async def _follow(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        """The prompt through all blocks, each as soon as it is there."""
        base, blocks = place.length, self._span.blocks
        done = blocks.start
        try:
            await self._loaded_unit("entry")
            while True:
                part = await self._next_part(done)
                done = part.end
                x_TD = await self._run(self._compute, place, base, tokens, x_TD, reads, part)
                if done == blocks.end:
                    return x_TD
        except BaseException:
            # Later blocks have no keys and values for these tokens: they must not be found again.
            await asyncio.shield(self._inner.truncate(place, base))
            raise

    async def _next_part(self, start: int) -> BlockSpan:
        """The blocks from `start` on that are there; the last one is with its head."""
        blocks = self._span.blocks
        await self._loaded_unit(start)
        end = start + 1
        while end < blocks.end and end in self._loaded:
            end += 1
        if end == blocks.end and "head" not in self._loaded:
            if end - start > 1:
                return BlockSpan(start, end - 1)
            await self._loaded_unit("head")
        return BlockSpan(start, end)

    def _compute(
        self,
        place: Place,
        base: int,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
        part: BlockSpan,
    ) -> NDArray[np.float32]:
        """A prompt of any length through some blocks; every part starts at the same position."""
        if not isinstance(place, CachedSequence):
            raise TypeError("a local stage was given a place in another kind of stage")
        del place.tokens[base:]
        # Copied: the next step, whosever it is, writes its result to the same place.
        return self._span.forward([Slice(place, tokens, x_TD)], reads, part=part).copy()

    async def _loaded_unit(self, unit: Unit) -> None:
        self._load_in_background()
        async with self._changed:
            await self._changed.wait_for(lambda: unit in self._loaded or self._failure)
        if unit not in self._loaded and self._failure is not None:
            raise self._failure

    # loading

    def _load_in_background(self) -> None:
        """Loads what arrives; begins again if the last attempt failed."""
        if self._loading is None or (self._loading.done() and not self._is_complete):
            self._failure = None
            self._loading = self._tasks.start("loading weights", self._load())

    async def _load(self) -> None:
        try:
            await self._load_units()
            async with self._one_prompt:
                await self._run(self._span.finish_loading)
                self._is_complete = True
        except Exception as error:
            # Whoever waits for a unit, or asks next, raises it.
            async with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise

    async def _load_units(self) -> None:
        span, source = self._span, self._source
        for unit in span.units:
            if unit in self._loaded:
                continue
            await source.wait_for(span.unit_ranges(unit))
            await self._load_unit(unit)
            for later in span.units:
                # What has come out of turn is loaded while there is time.
                if later not in self._loaded and source.has(span.unit_ranges(later)):
                    await self._load_unit(later)

    async def _load_unit(self, unit: Unit) -> None:
        await self._run(self._span.load, unit)
        async with self._changed:
            self._loaded.add(unit)
            self._changed.notify_all()

    def _run(self, call: Callable[..., T], *arguments: object) -> Awaitable[T]:
        return asyncio.wrap_future(self._worker.submit(call, *arguments))
