"""Consecutive spans on other machines, as one stage of a route; it outlives the peers it runs on.

Drives `Recovery`, which decides: this one has the streams, the clock and the search for others.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.steps import CHUNK_TOKENS, Reads
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.tasks import Tasks
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.activations import Activations
from baremetalrt.peers.attached_span import AttachedSpan, Blame, Fault
from baremetalrt.peers.caller import Channels, StageCall
from baremetalrt.peers.chain_route import ChainRoute, FindReplacement, PlanRoute
from baremetalrt.peers.events import StageLost, StageReplaced
from baremetalrt.peers.recovery import Recovery, RefusedRowsError
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.peers.stage_commands import (
    Action,
    Attach,
    Forward,
    Grow,
    Leave,
    Open,
    Probe,
    Redirect,
    Replace,
    Step,
    Tell,
    Truncate,
)
from baremetalrt.peers.wire import (
    ENCODINGS,
    SCOPE_BYTES,
    TEXT_BYTES,
    StepError,
    make_step,
    read_rows,
)
from baremetalrt.session.stage import Place

_CLOSE_TIMEOUT_S: Final = 1.0
# Of what a peer says went wrong: it is written to logs.
_MAX_CODE, _MAX_MESSAGE = 64, 500
# Chunks of a prompt on their way at once, so that no stage waits for another.
_MAX_OUTSTANDING: Final = 3

# Other processes of this machine make other names.
_SCOPE_KEY: Final = secrets.token_bytes(32)

_BLAMES: Final = {pb.BLAME_PREVIOUS: Blame.PREVIOUS, pb.BLAME_NEXT: Blame.NEXT}


@dataclass(eq=False)
class ChainPlace:
    """A text in every stage of a chain, each with its own call; `scope` names its owner to peers."""

    text: Recovery
    scope: bytes = b""
    calls: dict[AttachedSpan, StageCall] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def length(self) -> int:
        """Tokens that were given to it."""
        return self.text.length


class RemoteChain:
    """Runs spans on peers, which pass rows on among themselves; the last one answers.

    When a peer is lost, `find_replacement` names another one, or several that have its blocks
    together. They are given what the lost one had been given, by the stage before it, in steps of the
    same shapes: so the tokens that follow are the same. Survivors keep what they have. `plan` finds the
    best route of all, for texts that begin after that: see `ChainRoute`.
    """

    chunk_tokens = CHUNK_TOKENS

    def __init__(
        self,
        channels: Channels,
        spans: Sequence[RemoteSpan],
        find_replacement: FindReplacement,
        plan: PlanRoute | None = None,
        *,
        row_width: int,
        activations: Activations = "f32",
        on_event: Callable[[StageLost | StageReplaced], None] = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`row_width` is that of what comes back: the vocabulary's size where the head is among it.

        `activations`: how rows travel from peer to peer; all but 32 bit change what is computed.
        """
        self._encoding = ENCODINGS[activations]
        self._row_width = row_width
        self._channels = channels
        self._is_end = spans[-1].blocks.end == spans[-1].num_blocks
        self._clock = clock
        self._ending = Tasks()
        self._route = ChainRoute(spans, find_replacement, plan, on_event=on_event, clock=clock)

    @property
    def spans(self) -> Sequence[RemoteSpan]:
        """The route of texts that begin now."""
        return self._route.spans

    # the five calls of a stage

    async def open(
        self, tokens: Sequence[int], capacity: int, owner: Owner = THIS_USER
    ) -> ChainPlace:
        """Begins a text in all peers, where texts of other owners are kept apart from it.

        Raises:
            CapacityError: a peer has no room, or is gone and nobody can replace it.
        """
        await self._route.begin()
        recovery = Recovery(self.spans, capacity, self._check, chunk_tokens=CHUNK_TOKENS)
        place = ChainPlace(recovery, scope=scope_of(owner))
        # Rows of a beginning that peers remember could not be given to a peer that replaces one.
        place.text.open(tokens if self.spans[0].blocks.start == 0 else ())
        try:
            await self._until(place, lambda: place.text.is_settled)
        except BaseException:
            for call in place.calls.values():
                await call.close()
            raise
        return place

    async def grow(self, place: Place, capacity: int) -> None:
        chain = _chain(place)
        chain.text.grow(capacity)
        await self._until(chain, lambda: chain.text.is_settled)

    async def truncate(self, place: Place, length: int) -> None:
        chain = _chain(place)
        await self._until(chain, lambda: not chain.text.num_outstanding)
        chain.text.truncate(length)
        await self._until(chain, lambda: chain.text.is_settled)

    async def forward(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        """The next tokens through all peers; raises like `open`. Peers are replaced meanwhile."""
        text = (chain := _chain(place)).text
        step = Step(text.length, tuple(tokens), x_TD, reads)
        text.forward(step)
        returns_rows = reads != "none" or not self._is_end
        limit = 0 if returns_rows else _MAX_OUTSTANDING
        await self._until(chain, lambda: text.num_outstanding <= limit)
        if returns_rows:
            rows: NDArray[np.float32] = text.take_rows(step.position)
            return rows
        return np.empty((0, self._row_width), dtype=np.float32)

    def release(self, place: Place, *, keep: bool) -> None:
        chain = _chain(place)
        if chain.text.error is None and chain.length:
            self._route.note_success(chain.text.stages)
        for call in chain.calls.values():
            self._ending.start(
                f"the end of a text at {call.span.id[:8]}",
                call.finish(keep=keep, timeout_s=_CLOSE_TIMEOUT_S),
            )

    async def close(self) -> None:
        """Waits until the peers know of texts that ended."""
        await self._route.close()
        await self._ending.finished()

    def _check(self, step: Step, result: pb.Result) -> NDArray[np.float32]:
        """What a peer answers has the right shape and is made of numbers, or the peer is left."""
        num_tokens = len(step.tokens)
        of_reads = {"all": num_tokens, "last": 1, "none": 0}
        expected = of_reads[step.reads] if self._is_end else num_tokens
        is_wide = not expected or result.width == self._row_width
        if (result.num_tokens, result.num_rows) != (num_tokens, expected) or not is_wide:
            raise RefusedRowsError("rows.shape: an answer of the wrong shape")
        try:
            return read_rows(result.rows, expected, self._row_width)
        except StepError as error:
            raise RefusedRowsError(f"{error.code}: {error}") from error

    # what the text decides

    async def _until(self, place: ChainPlace, is_done: Callable[[], bool]) -> None:
        """Does what has to be done, and waits, until the text is so far; raises its error."""
        text = place.text
        text.wait(self._clock())
        while True:
            place.changed.clear()
            for action in text.advance(self._clock()):
                await self._act(place, action)
            if text.error is not None:
                raise text.error
            if is_done():
                return
            if place.changed.is_set():
                continue
            try:
                async with asyncio.timeout(text.wake_at - self._clock()):
                    await place.changed.wait()
            except TimeoutError:
                pass

    async def _act(self, place: ChainPlace, action: Action) -> None:
        match action:
            case Attach(stage):
                place.calls[stage] = self._attach(place, stage)
            case Tell(stage):
                place.calls[stage].send(_message(place, action, self._encoding))
            case Probe(stage):
                place.calls[stage].probe()
            case Leave(stage):
                if stage in place.calls:
                    await place.calls.pop(stage).close()
            case Replace(stage, why):
                place.text.replaced(stage, await self._route.replace(stage, why))
                place.changed.set()

    def _attach(self, place: ChainPlace, stage: AttachedSpan) -> StageCall:
        def on_report(report: pb.Report) -> None:
            _take(place.text, stage, report)
            place.changed.set()

        def on_lost(why: str) -> None:
            place.text.lost(stage, why)
            place.changed.set()

        text = secrets.token_bytes(TEXT_BYTES)
        return StageCall(self._channels, stage.span, text, on_report=on_report, on_lost=on_lost)


def _take(text: Recovery, stage: AttachedSpan, report: pb.Report) -> None:
    """Tells a text what a stage says."""
    kind = report.WhichOneof("body")
    if kind == "done":
        done = report.done
        text.answered(stage, report.number, length=done.length, is_complete=done.is_complete)
    elif kind == "result":
        text.computed(stage, report.result)
    elif kind == "fault":
        fault = report.fault
        blame = _BLAMES.get(fault.blame, Blame.HERE)
        text.failed(
            stage,
            report.number,
            Fault(fault.code[:_MAX_CODE], fault.message[:_MAX_MESSAGE], blame, fault.epoch),
        )


def _message(place: ChainPlace, tell: Tell, encoding: "pb.Encoding") -> pb.Command:
    """A command as it travels."""
    calls = place.calls
    match tell.command:
        case Forward(step, epoch):
            sent = make_step(step.position, step.tokens, step.x_TD, step.reads, epoch)
            return pb.Command(number=tell.number, step=sent)
        case Open():
            opening = _opening(place, tell.stage, tell.command, encoding)
            return pb.Command(number=tell.number, open=opening)
        case Grow(capacity):
            return pb.Command(number=tell.number, grow=pb.Grow(capacity=capacity))
        case Truncate(length, epoch):
            truncate = pb.Truncate(length=length, epoch=epoch)
            return pb.Command(number=tell.number, truncate=truncate)
        case Redirect(follows, resend, epoch):
            redirect = pb.Redirect(next=calls[follows].peer, resend=resend, epoch=epoch)
            return pb.Command(number=tell.number, redirect=redirect)


def _opening(
    place: ChainPlace, stage: AttachedSpan, command: Open, encoding: "pb.Encoding"
) -> pb.Open:
    span, calls = stage.span, place.calls
    return pb.Open(
        text=calls[stage].text,
        model=span.model,
        start=span.blocks.start,
        end=span.blocks.end,
        tokens=command.tokens,
        capacity=command.capacity,
        next=calls[command.next].peer if command.next else None,
        epoch=command.epoch,
        withheld=command.withheld,
        encoding=encoding,
        scope=place.scope,
    )


def scope_of(owner: Owner) -> bytes:
    """What peers are told, so that they keep texts of different owners apart: not who the owner is."""
    if owner == THIS_USER:
        return b""
    text = f"{len(owner.principal)}:{owner.principal}{owner.scope}".encode()
    return hashlib.blake2b(text, key=_SCOPE_KEY, digest_size=SCOPE_BYTES).digest()


def _chain(place: Place) -> ChainPlace:
    if not isinstance(place, ChainPlace):
        raise TypeError("a chain of peers was given a place in another kind of stage")
    return place
