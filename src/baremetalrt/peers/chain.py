"""Consecutive spans on other machines, as one stage of a route; it outlives the peers it runs on."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.span import Reads
from baremetalrt.core.errors import CapacityError
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.activations import Activations
from baremetalrt.peers.caller import Channels, RemoteSpan, StageCall
from baremetalrt.peers.events import StageLost, StageReplaced
from baremetalrt.peers.wire import (
    ENCODINGS,
    TEXT_BYTES,
    StepError,
    make_step,
    read_rows,
)
from baremetalrt.session.stage import CHUNK_TOKENS, Place

_log = logging.getLogger("baremetalrt.peers")
# A peer that says nothing for so long, though asked, is gone. Asking begins after the first pause.
_SILENCE_S: Final = 2.5
_PROBE_INTERVAL_S: Final = 0.5
# Longer than any honest step: a peer that answers probes but never finishes is given up, too.
_STEP_TIMEOUT_S: Final = 120.0
_CLOSE_TIMEOUT_S: Final = 1.0
_MAX_RECOVERIES: Final = 8
# A peer that was lost is not asked for so long; twice as long each further time.
_FIRST_BACKOFF_S: Final = 5.0
_LONGEST_BACKOFF_S: Final = 300.0
# Chunks of a prompt on their way at once, so that no stage waits for another.
_MAX_OUTSTANDING: Final = 3

# Who else has the blocks of a span, in order: told what is lost and who must not be asked.
FindReplacement = Callable[[RemoteSpan, frozenset[str]], Awaitable[Sequence[RemoteSpan]]]


class _StageLostError(Exception):
    """A stage is gone: by its index, and why."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


@dataclass
class _Input:
    """A step as it went in: it goes in again, in the same shape, when a stage has to be rebuilt."""

    position: int
    tokens: tuple[int, ...]
    x_TD: NDArray[np.float32] | None
    reads: Reads

    @property
    def end(self) -> int:
        return self.position + len(self.tokens)


@dataclass(eq=False)
class ChainPlace:
    """A text in every stage of a chain, each with its own call. `length` counts what was given to it."""

    capacity: int
    length: int = 0
    prefix: tuple[int, ...] = ()
    epoch: int = 0
    calls: list[StageCall] = field(default_factory=list)
    inputs: list[_Input] = field(default_factory=list)
    outstanding: list[_Input] = field(default_factory=list)
    results: dict[int, pb.Result] = field(default_factory=dict)
    rows: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    num_recoveries: int = 0


class RemoteChain:
    """Runs spans on peers, which pass rows on among themselves; the last one answers.

    When a peer is lost, `find_replacement` names another one, or several that have its blocks
    together. They are given what the lost one had been given, by the stage before it, in steps of the
    same shapes: so the tokens that follow are the same. Survivors keep what they have.

    `spans` is the route of texts that begin now; a text that lost nothing goes on where it began.
    """

    chunk_tokens = CHUNK_TOKENS

    def __init__(
        self,
        channels: Channels,
        spans: Sequence[RemoteSpan],
        find_replacement: FindReplacement,
        *,
        row_width: int,
        activations: Activations = "f32",
        on_event: Callable[[StageLost | StageReplaced], None] = lambda event: None,
    ) -> None:
        """`row_width` is that of what comes back: the vocabulary's size where the head is among it.

        `activations`: how rows travel from peer to peer; all but 32 bit change what is computed.
        """
        self._encoding = ENCODINGS[activations]
        self._row_width = row_width
        self._channels = channels
        self.spans = list(spans)
        self._is_end = spans[-1].blocks.end == spans[-1].num_blocks
        self._find_replacement = find_replacement
        self._on_event = on_event
        self._ending: set[asyncio.Task[None]] = set()
        self._replacing = asyncio.Lock()
        # Peers that were lost: how often, and until when they are not asked.
        self._losses: dict[str, tuple[int, float]] = {}

    # the five calls of a stage

    async def open(self, tokens: Sequence[int], capacity: int) -> ChainPlace:
        """Begins a text in all peers.

        Raises:
            CapacityError: a peer has no room, or is gone and nobody can replace it.
        """
        num_recoveries = 0
        # Rows of a beginning that peers remember could not be given to a peer that replaces one.
        known = tokens if self.spans[0].blocks.start == 0 else ()
        while True:
            place = ChainPlace(capacity, num_recoveries=num_recoveries)
            try:
                await self._open_all(place, known)
                return place
            except _StageLostError as lost:
                await self._leave(place)
                num_recoveries += 1
                await self._replace_span(place, lost)
            except BaseException:
                await self._leave(place)
                raise

    async def grow(self, place: Place, capacity: int) -> None:
        chain = _chain(place)
        await self._everywhere(chain, lambda c: c.command(grow=pb.Grow(capacity=capacity)))
        chain.capacity = capacity

    async def truncate(self, place: Place, length: int) -> None:
        chain = _chain(place)
        chain.epoch += 1
        # The epoch of now, also when this is said again after a recovery.
        await self._everywhere(
            chain,
            lambda c: c.command(truncate=pb.Truncate(length=length, epoch=chain.epoch)),
        )
        chain.length = length
        chain.prefix = chain.prefix[:length]
        chain.inputs = [i for i in chain.inputs if i.end <= length]

    async def forward(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        """The next tokens through all peers; raises like `open`. Peers are replaced meanwhile."""
        chain = _chain(place)
        step = _Input(chain.length, tuple(tokens), x_TD, reads)
        chain.inputs.append(step)
        chain.outstanding.append(step)
        chain.length = step.end
        self._send(chain, step)
        returns_rows = reads != "none" or not self._is_end
        limit = 0 if returns_rows else _MAX_OUTSTANDING
        while True:
            try:
                await self._until(chain, lambda: self._collect(chain) <= limit)
                break
            except _StageLostError as lost:
                await self._recover(chain, lost)
        return (
            chain.rows.pop(step.position)
            if returns_rows
            else np.empty((0, self._row_width), dtype=np.float32)
        )

    def release(self, place: Place, *, keep: bool) -> None:
        chain = _chain(place)
        for call in chain.calls:
            task = asyncio.ensure_future(call.finish(keep=keep, timeout_s=_CLOSE_TIMEOUT_S))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Waits until the peers know of texts that ended."""
        while self._ending:
            await asyncio.wait(self._ending)

    # opening

    async def _open_all(self, place: ChainPlace, tokens: Sequence[int]) -> None:
        place.calls = [self._attach(place, span) for span in self.spans]
        for i, call in enumerate(place.calls):
            call.command(open=self._open_request(place, i, tokens))
        await self._until(place, lambda: all(1 in call.answers for call in place.calls))
        length = min(call.answers[1].length for call in place.calls)
        place.length = length
        place.prefix = tuple(tokens[:length])
        if any(call.answers[1].length > length for call in place.calls):
            await self.truncate(place, length)

    def _open_request(
        self, place: ChainPlace, index: int, tokens: Sequence[int], withheld: int = 0
    ) -> pb.Open:
        call = place.calls[index]
        later = place.calls[index + 1] if index + 1 < len(place.calls) else None
        return pb.Open(
            text=call.text,
            model=call.span.model,
            start=call.span.blocks.start,
            end=call.span.blocks.end,
            tokens=tokens,
            capacity=place.capacity,
            next=later.peer if later else None,
            epoch=place.epoch,
            withheld=withheld,
            encoding=self._encoding,
        )

    def _attach(self, place: ChainPlace, span: RemoteSpan) -> StageCall:
        text = secrets.token_bytes(TEXT_BYTES)

        def on_result(result: pb.Result) -> None:
            place.results[result.position] = result

        return StageCall(
            self._channels, span, text, on_result=on_result, on_change=place.changed.set
        )

    async def _leave(self, place: ChainPlace) -> None:
        for call in place.calls:
            await call.close()

    # waiting

    def _send(self, place: ChainPlace, step: _Input) -> None:
        place.calls[0].command(
            step=make_step(step.position, step.tokens, step.x_TD, step.reads, place.epoch)
        )

    def _collect(self, place: ChainPlace) -> int:
        """Takes in what was computed; how many steps are still on their way."""
        while place.outstanding and place.outstanding[0].position in place.results:
            step = place.outstanding[0]
            result = place.results[step.position]
            rows = self._check(step, result, len(place.calls) - 1)
            place.outstanding.pop(0)
            del place.results[step.position]
            if len(rows):
                place.rows[step.position] = rows
        return len(place.outstanding)

    def _check(self, step: _Input, result: pb.Result, last: int) -> NDArray[np.float32]:
        """A peer's answer has the right shape and is made of numbers, or the peer is left."""
        num_tokens = len(step.tokens)
        of_reads = {"all": num_tokens, "last": 1, "none": 0}
        expected = of_reads[step.reads] if self._is_end else num_tokens
        try:
            is_wide = not expected or result.width == self._row_width
            if (result.num_tokens, result.num_rows) != (num_tokens, expected) or not is_wide:
                raise StepError("rows.shape", "an answer of the wrong shape")
            return read_rows(result.rows, expected, self._row_width)
        except StepError as error:
            raise _StageLostError(last, f"{error.code}: {error}") from error

    async def _everywhere(self, place: ChainPlace, send: Callable[[StageCall], int]) -> None:
        """A command to all stages, done by all of them."""
        while True:
            sent = [(call, send(call)) for call in place.calls]
            try:
                await self._until(place, partial(_are_answered, sent))
                return
            except _StageLostError as lost:
                await self._recover(place, lost)

    async def _until(self, place: ChainPlace, is_done: Callable[[], bool]) -> None:
        """Waits as long as every stage lives; raises `_StageLostError` for the first that does not."""
        deadline = time.monotonic() + _STEP_TIMEOUT_S
        probed_at = 0.0
        while True:
            place.changed.clear()
            self._look_for_losses(place)
            if is_done():
                return
            try:
                async with asyncio.timeout(_PROBE_INTERVAL_S):
                    await place.changed.wait()
                continue
            except TimeoutError:
                pass
            now = time.monotonic()
            for index, call in enumerate(place.calls):
                if probed_at and now - call.heard_at > _SILENCE_S:
                    raise _StageLostError(index, f"no answer for {_SILENCE_S:.1f} s")
                call.probe()
                if not probed_at:
                    call.heard_at = now
            probed_at = probed_at or now
            if now > deadline:
                raise _StageLostError(len(place.calls) - 1, "a step takes too long")

    def _look_for_losses(self, place: ChainPlace) -> None:
        for index, call in enumerate(place.calls):
            if call.lost is not None:
                raise _StageLostError(index, call.lost)
        for index, call in enumerate(place.calls):
            # What a stage said of a neighbour that was replaced since is news of yesterday.
            call.faults = [fault for fault in call.faults if fault.epoch == place.epoch]
            if not call.faults:
                continue
            fault = call.faults.pop(0)
            if fault.code in ("cache.full", "context.memory"):
                raise CapacityError(
                    f"peer {call.span.id[:8]}: {fault.message}",
                    code=fault.code,
                    hint="wait for other answers to end, or ask another peer",
                )
            shift = {pb.BLAME_PREVIOUS: -1, pb.BLAME_NEXT: 1}.get(fault.blame, 0)
            blamed = index + shift
            # A peer cannot blame somebody outside of the route.
            blamed = blamed if 0 <= blamed < len(place.calls) else index
            raise _StageLostError(blamed, f"{fault.code}: {fault.message}")

    # recovery

    async def _replace_span(self, place: ChainPlace, lost: _StageLostError) -> list[RemoteSpan]:
        """Who has the blocks of a lost stage from now on."""
        span = place.calls[lost.index].span
        async with self._replacing:
            # Unless another text has found somebody before.
            if span in self.spans:
                await self._find_others(place, span, lost)
        return [one for one in self.spans if one.blocks.is_within(span.blocks)]

    async def _find_others(
        self, place: ChainPlace, span: RemoteSpan, lost: _StageLostError
    ) -> None:
        self._on_event(StageLost(span.id, span.blocks, str(lost)))
        self._note_loss(span.id)
        found: Sequence[RemoteSpan] = ()
        if place.num_recoveries <= _MAX_RECOVERIES:
            found = await self._find_replacement(span, self._avoided())
        if not found:
            raise CapacityError(
                f"blocks {span.blocks} are lost ({lost}), and no other peer has them",
                code="route.lost",
                hint="the conversation can go on when a peer hosts them again",
            ) from lost
        for one in found:
            self._on_event(StageReplaced(one.id, one.blocks))
        index = self.spans.index(span)
        self.spans[index : index + 1] = found

    def _note_loss(self, peer: str) -> None:
        times = self._losses.get(peer, (0, 0.0))[0] + 1
        backoff_s = min(_FIRST_BACKOFF_S * 2 ** (times - 1), _LONGEST_BACKOFF_S)
        self._losses[peer] = times, time.monotonic() + backoff_s

    def _avoided(self) -> frozenset[str]:
        """Peers that were lost a short while ago."""
        now = time.monotonic()
        return frozenset(peer for peer, (_, until) in self._losses.items() if until > now)

    async def _recover(self, place: ChainPlace, lost: _StageLostError) -> None:
        """Replaces stages until all are there and stand where the first missing answer begins."""
        while True:
            place.num_recoveries += 1
            await place.calls[lost.index].close()
            spans = await self._replace_span(place, lost)
            place.calls[lost.index : lost.index + 1] = [self._attach(place, s) for s in spans]
            try:
                await self._rebuild(place, lost.index, lost.index + len(spans) - 1)
                return
            except _StageLostError as another:
                lost = another

    async def _rebuild(self, place: ChainPlace, first: int, last: int) -> None:
        """Gives the new stages from `first` to `last` what those before them had."""
        place.epoch += 1
        done = place.outstanding[0].position if place.outstanding else place.length
        place.results.clear()
        calls = place.calls
        numbers = {}
        for i in range(first, last + 1):
            # What follows the new ones has had their rows; they themselves have not.
            withheld = done if i == last else 0
            numbers[i] = calls[i].command(open=self._open_request(place, i, (), withheld))
        await self._stand_at(place, done, numbers)
        # A recovery that was cut short by another loss left stages behind: they begin anew, too.
        behind = [i for i, n in numbers.items() if calls[i].answers[n].length < done]
        if behind and (min(behind) < first or max(behind) > last):
            for i in range(min(behind), max(behind) + 1):
                await calls[i].close()
                calls[i] = self._attach(place, calls[i].span)
            await self._rebuild(place, min(behind), max(behind))
            return
        source = self._source_before(place, first, numbers)
        # From the stage before, if it has all that it ever passed on; else from further up.
        for i in range(source + 1, first):
            calls[i].command(truncate=pb.Truncate(length=0, epoch=place.epoch))
        if first > 0:
            calls[first - 1].command(
                redirect=pb.Redirect(
                    next=calls[first].peer, resend=source == first - 1, epoch=place.epoch
                )
            )
        if source >= 0 and source < first - 1:
            calls[source].command(
                redirect=pb.Redirect(next=calls[source + 1].peer, resend=True, epoch=place.epoch)
            )
        if source < 0:
            self._replay(place, done)
        if done:
            await self._until(
                place,
                lambda: any(r.position + r.num_tokens == done for r in place.results.values()),
            )
        place.results.clear()
        for step in place.outstanding:
            self._send(place, step)

    async def _stand_at(self, place: ChainPlace, done: int, numbers: dict[int, int]) -> None:
        """Brings all others than the new stages back to position `done`; waits for all."""
        for i, call in enumerate(place.calls):
            if i not in numbers:
                numbers[i] = call.command(truncate=pb.Truncate(length=done, epoch=place.epoch))
        await self._until(
            place, lambda: all(n in place.calls[i].answers for i, n in numbers.items())
        )

    def _source_before(self, place: ChainPlace, first: int, numbers: dict[int, int]) -> int:
        """The nearest stage before `first` that kept all its rows; -1 for the caller."""
        for i in range(first - 1, -1, -1):
            if place.calls[i].answers[numbers[i]].is_complete:
                return i
        return -1

    def _replay(self, place: ChainPlace, done: int) -> None:
        """What the caller itself had given, up to `done`."""
        prefix = place.prefix
        for start in range(0, len(prefix), CHUNK_TOKENS):
            self._send(place, _Input(start, prefix[start : start + CHUNK_TOKENS], None, "none"))
        for step in place.inputs:
            if step.end <= done:
                self._send(place, _Input(step.position, step.tokens, step.x_TD, "none"))


def _are_answered(sent: Sequence[tuple[StageCall, int]]) -> bool:
    return all(number in call.answers for call, number in sent)


def _chain(place: Place) -> ChainPlace:
    if not isinstance(place, ChainPlace):
        raise TypeError("a chain of peers was given a place in another kind of stage")
    return place
