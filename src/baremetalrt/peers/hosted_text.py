"""One text of one caller in a hosted span: what is asked for is done in the order in which it came."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol

import grpc

from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.owner import Owner
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.tasks import Tasks, note_failure
from baremetalrt.core.units import MIB
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.attached_span import NOT_HOSTED
from baremetalrt.peers.bounded_queue import Allowance, BoundedQueue
from baremetalrt.peers.hosted import Hosted
from baremetalrt.peers.pass_streams import PassStream
from baremetalrt.peers.reach import AddressError, IPAddress
from baremetalrt.peers.wire import ENCODINGS, SCOPE_BYTES, StepError, make_step, read_step
from baremetalrt.session.stage import Place

# Room for a replay: who sends faster than is computed waits, and its questions wait with it.
_MAX_QUEUED: Final = 256
_MAX_QUEUED_BYTES: Final = 128 * MIB
# A next stage that computes takes no more meanwhile. Whether it still does is for the caller to judge.
_PASS_TIMEOUT_S: Final = 900.0
_WRITE_TIMEOUT_S: Final = 30.0


class TextHost(Protocol):
    """What a text needs of the host that it is at."""

    def find(self, model: str, blocks: BlockSpan) -> Hosted | None:
        """What is hosted of that model, if these blocks are among it."""

    def register(self, text: "HostedText") -> bool:
        """Makes a text known, to which others may pass rows; False if its id is none, or is taken."""

    def allowance(self, caller: str) -> Allowance:
        """What all texts of a caller may have in their queues."""

    def forget(self, text: "HostedText") -> None:
        """The text is over, or was never opened."""

    def link(self, peer: pb.Peer, caller: str, *, named_from: IPAddress | None) -> PassStream:
        """A stream of rows to the next stage; raises `AddressError`."""


class _FaultError(Exception):
    def __init__(self, code: str, message: str, blame: Any = pb.BLAME_HERE) -> None:
        super().__init__(message)
        self.code, self.blame = code, blame


class HostedText:
    """Computes steps, passes rows on, and keeps them: a stage that replaces the next one needs them."""

    def __init__(
        self,
        host: TextHost,
        caller: str,
        write: Callable[[pb.Report], Awaitable[None]],
        *,
        where: IPAddress | None,
    ) -> None:
        """`where`: from where the caller calls, if that is known."""
        self.id = b""
        self.caller = caller
        self.hosted: Hosted | None = None
        self.capacity = 0
        self._host = host
        self._where = where
        self._write = write
        self._writing = asyncio.Lock()
        self._queue: BoundedQueue[tuple[pb.Command, bool] | None] = BoundedQueue(
            max_items=_MAX_QUEUED, max_bytes=_MAX_QUEUED_BYTES, shared=host.allowance(caller)
        )
        self._place: Place | None = None
        self._part: BlockSpan | None = None
        self._epoch = self._newest_epoch = 0
        self._withheld = 0
        self._encoding = pb.ENCODING_F32
        self._next: pb.Peer | None = None
        self._link: PassStream | None = None
        self._is_passing = False
        # what was passed on, in steps; `_kept_from` is the first position that it holds
        self._kept: list[pb.Step] = []
        self._kept_from = 0
        self._keep = True
        self._tasks = Tasks()
        self._follower: asyncio.Task[None] | None = None

    async def run(self, commands: AsyncIterator[pb.Command]) -> None:
        """Serves the text until its caller is done or gone."""
        self._tasks.start("reading what a caller wants", self._read(commands))
        try:
            while (item := await self._queue.get()) is not None:
                command, was_passed = item
                try:
                    await self._do(command)
                except _FaultError as fault:
                    await self._fault(command.number, fault.code, str(fault), fault.blame)
                except StepError as error:
                    blame = pb.BLAME_PREVIOUS if was_passed else pb.BLAME_CALLER
                    await self._fault(command.number, error.code, str(error), blame)
                except BareMetalError as error:
                    if error.code != "cache.full":
                        self._keep = False
                    await self._fault(command.number, error.code, error.message, pb.BLAME_HERE)
        finally:
            # First what nothing can interrupt: cells that are not given back are lost for good.
            self._host.forget(self)
            if self._link is not None:
                self._link.close()
            if self.hosted is not None and self._place is not None:
                self.hosted.stage.release(self._place, keep=self._keep)
            self._queue.clear()
            await self._tasks.close()
            self._queue.clear()

    async def follow(self, first: pb.Passed, messages: AsyncIterator[pb.Passed]) -> None:
        """Takes steps from the stage before: until it ends, this text does, or another link comes."""
        if self._follower is not None:
            self._follower.cancel()
        self._follower = follower = self._tasks.start(
            "taking what the stage before passes on", self._take_passed(first, messages)
        )
        try:
            await asyncio.wait((follower,))
        finally:
            follower.cancel()

    async def _take_passed(self, first: pb.Passed, messages: AsyncIterator[pb.Passed]) -> None:
        await self._take(pb.Command(step=first.step), was_passed=True)
        try:
            async for message in messages:
                await self._take(pb.Command(step=message.step), was_passed=True)
        except StepError as error:
            await self._fault(0, error.code, str(error), pb.BLAME_PREVIOUS)
        except grpc.aio.AioRpcError:
            pass

    async def _take(self, command: pb.Command, *, was_passed: bool = False) -> None:
        """Queues a command; who sends faster than is computed waits here."""
        await self._queue.put((command, was_passed), command.ByteSize())

    async def _read(self, commands: AsyncIterator[pb.Command]) -> None:
        try:
            async for command in commands:
                if command.HasField("probe"):
                    await self._report(pb.Report(number=command.number, done=self._done()))
                    continue
                if command.HasField("truncate"):
                    # Steps before it in the queue need neither be computed nor passed on any more.
                    self._newest_epoch = command.truncate.epoch
                    if self._is_passing and self._link is not None:
                        self._link.close()
                await self._take(command)
        except (grpc.aio.AioRpcError, TimeoutError):
            pass
        except StepError as error:
            await self._fault(0, error.code, str(error), pb.BLAME_CALLER)
        except Exception as error:
            note_failure("reading what a caller wants", error)
        await self._queue.put(None, 0)

    async def _do(self, command: pb.Command) -> None:
        body = command.WhichOneof("body")
        if (body == "open") == (self._place is not None):
            raise _FaultError("text.order", "a text is opened once, and first", pb.BLAME_CALLER)
        if body == "open":
            await self._open(command.open)
        elif body == "step":
            await self._step(command.step)
            return
        elif body == "grow":
            assert self.hosted is not None
            capacity = command.grow.capacity
            _require_length(self.hosted, capacity)
            await self._stage.grow(self._opened, capacity)
            self.capacity = max(self.capacity, capacity)
        elif body == "truncate":
            await self._truncate(command.truncate)
        elif body == "redirect":
            await self._redirect(command.redirect)
        elif body == "close":
            self._keep = self._keep and command.close.keep
        else:
            raise _FaultError("command.unknown", "an unknown command", pb.BLAME_CALLER)
        await self._report(pb.Report(number=command.number, done=self._done()))

    @property
    def _stage(self) -> Any:
        assert self.hosted is not None
        return self.hosted.stage

    @property
    def _opened(self) -> Place:
        assert self._place is not None
        return self._place

    def _done(self) -> pb.Done:
        length = self._place.length if self._place is not None else 0
        return pb.Done(length=length, is_complete=self._kept_from == 0)

    async def _open(self, request: pb.Open) -> None:
        self._epoch = request.epoch
        if not request.start < request.end:
            raise _FaultError("span.empty", "a span without blocks", pb.BLAME_CALLER)
        if request.encoding not in ENCODINGS.values():
            raise _FaultError("rows.encoding", "an unknown encoding of rows", pb.BLAME_CALLER)
        self._part = BlockSpan(request.start, request.end)
        hosted = self._host.find(request.model, self._part)
        if hosted is None:
            raise _FaultError(NOT_HOSTED, "this span is not hosted here")
        _require_length(hosted, request.capacity)
        if len(request.tokens) > request.capacity:
            raise StepError("step.capacity", "more tokens than there is to be room for")
        h = hosted.span.hyperparameters
        if request.tokens and max(request.tokens) >= h.vocabulary_size:
            raise StepError("step.tokens", "a token is not in the vocabulary")
        if len(request.scope) not in (0, SCOPE_BYTES):
            raise _FaultError("scope.size", f"a scope has {SCOPE_BYTES} bytes", pb.BLAME_CALLER)
        self.id = request.text
        if not self._host.register(self):
            raise _FaultError("text.known", "a text of that id exists", pb.BLAME_CALLER)
        self.hosted = hosted
        try:
            self._place = await hosted.stage.open(
                list(request.tokens),
                request.capacity,
                Owner(self.caller, request.scope.hex()),
                None if self._part == hosted.span.blocks else self._part,
                hosted.cells_per_peer,
            )
        except BaseException:
            self.hosted = None
            self._host.forget(self)
            raise
        self.capacity = request.capacity
        self._withheld = request.withheld
        self._encoding = request.encoding
        self._next = request.next if request.HasField("next") else None
        self._kept_from = self._place.length

    async def _step(self, step: pb.Step) -> None:
        if step.epoch != self._epoch or step.epoch < self._newest_epoch:
            return
        assert self.hosted is not None and self._part is not None
        h, blocks = self.hosted.span.hyperparameters, self._part
        tokens, x_TD, reads = read_step(
            step,
            length=self._opened.length,
            capacity=self.capacity,
            vocabulary_size=h.vocabulary_size,
            width=h.width if blocks.start else None,
        )
        rows = await self._stage.forward(self._opened, tokens, x_TD, reads)
        if blocks.end < h.num_blocks:
            computed = make_step(step.position, tokens, rows, reads, self._epoch, self._encoding)
            self._kept.append(computed)
            if step.position >= self._withheld and self._next is not None:
                await self._pass_on(computed)
                return
        is_withheld = step.position < self._withheld
        await self._report(
            pb.Report(
                result=pb.Result(
                    position=step.position,
                    num_tokens=len(tokens),
                    num_rows=0 if is_withheld else len(rows),
                    width=rows.shape[1],
                    rows=b"" if is_withheld else rows.tobytes(),
                )
            )
        )

    async def _truncate(self, request: pb.Truncate) -> None:
        length = min(request.length, self._opened.length)
        await self._stage.truncate(self._opened, length)
        self._epoch = request.epoch
        self._kept = [s for s in self._kept if s.position + len(s.tokens) <= length]
        self._kept_from = min(self._kept_from, length)
        # What comes after it is new to the stage that follows.
        self._withheld = min(self._withheld, length)

    async def _redirect(self, request: pb.Redirect) -> None:
        if self._link is not None:
            self._link.close()
        self._link, self._next, self._epoch = None, request.next, request.epoch
        for step in self._kept if request.resend else ():
            step.epoch = self._epoch
            await self._pass_on(step)

    async def _pass_on(self, step: pb.Step) -> None:
        assert self._next is not None
        link, text = self._link, b""
        if link is None:
            link, text = self._open_link(self._next), self._next.text
        message = pb.Passed(text=text, step=step)
        self._is_passing = True
        try:
            async with asyncio.timeout(_PASS_TIMEOUT_S):
                await link.write(message)
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self._lost_next() from error
        except asyncio.CancelledError as error:
            # Either the link was cancelled, because a new epoch has begun, or this text is.
            if self._newest_epoch <= self._epoch or _is_cancelled():
                raise
            raise self._lost_next() from error
        finally:
            self._is_passing = False

    def _open_link(self, peer: pb.Peer) -> PassStream:
        try:
            self._link = self._host.link(peer, self.caller, named_from=self._where)
        except AddressError as error:
            raise self._lost_next() from error
        return self._link

    def _lost_next(self) -> _FaultError:
        """The link is given up; what is passed on next opens another.

        Why is not said: who names an address is not to learn what is there.
        """
        if self._link is not None:
            self._link.close()
        self._link = None
        return _FaultError("next.lost", "the next stage does not answer", pb.BLAME_NEXT)

    async def _fault(self, number: int, code: str, message: str, blame: Any) -> None:
        fault = pb.Fault(code=code, message=message[:500], blame=blame, epoch=self._epoch)
        await self._report(pb.Report(number=number, fault=fault))

    async def _report(self, report: pb.Report) -> None:
        # A caller that does not read is left: its stream ends, and with it the text.
        async with self._writing, asyncio.timeout(_WRITE_TIMEOUT_S):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._write(report)


def _require_length(hosted: Hosted, capacity: int) -> None:
    """No text is longer than was offered."""
    if not 1 <= capacity <= hosted.context:
        raise _FaultError(
            "cache.full", f"no text of {capacity} tokens: {hosted.context} are the longest"
        )


def _is_cancelled() -> bool:
    """Whether the task that runs is to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
