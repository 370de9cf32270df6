"""How a text goes through the stages of a chain, and goes on when one is lost. Decides; does nothing.

What stages answer, that they are lost, and the time go in; `advance` returns the actions that follow from
it. Sockets, clocks and the search for others are of `peers/chain.py`; who is lost, of `loss_watch.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from itertools import pairwise
from typing import Any, Final, Protocol

from baremetalrt.core.errors import BareMetalError, CapacityError
from baremetalrt.peers.attached_span import AttachedSpan, Fault
from baremetalrt.peers.loss_watch import LossWatch, StageLostError
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.peers.stage_commands import (
    Action,
    Attach,
    Command,
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

_MAX_RECOVERIES: Final = 8
# Of what a stage says beyond what it was asked: what was on its way when it was told to stop.
_MAX_UNASKED: Final = 64


class RefusedRowsError(Exception):
    """What a stage computed has the wrong shape, or is not made of numbers."""


class Rows(Protocol):
    """What a stage computed for a step: see `Result` in the protocol."""

    position: int
    num_tokens: int


# The rows of a step as they were asked for; raises `RefusedRowsError`.
CheckRows = Callable[[Step, Any], Any]


class _Phase(Enum):
    # All stages begin; they say how much of the text they remember.
    OPENING = auto()
    # Steps go through.
    READY = auto()
    # Somebody looks for others who have the blocks that were lost.
    REPLACING = auto()
    # New stages begin; the others go back to where the first missing answer begins.
    STANDING = auto()
    # Those before the new ones learn who follows them, or begin anew if they did not keep their rows.
    REWINDING = auto()
    # What was computed goes through the new stages.
    REPLAYING = auto()


class Recovery:
    """One text in a chain of stages. `length` counts the tokens that were given to it.

    After every input, and when `wake_at` says so, `advance` says what is to be done, as long as somebody
    waits for the text. `error` ends it.
    """

    def __init__(
        self, spans: Iterable[RemoteSpan], capacity: int, check: CheckRows, *, chunk_tokens: int
    ) -> None:
        self.stages = [AttachedSpan(span) for span in spans]
        self.capacity = capacity
        self.length = 0
        self.num_recoveries = 0
        self.error: BareMetalError | None = None
        self._check = check
        self._chunk_tokens = chunk_tokens
        # the text as the caller gave it: what stages remembered, what was computed, what is on its way
        self._known: Sequence[int] = ()
        self._prefix: tuple[int, ...] = ()
        self._inputs: list[Step] = []
        self._outstanding: list[Step] = []
        self._results: dict[int, Rows] = {}
        self._rows: dict[int, Any] = {}
        # where it stands; steps and faults of an epoch that is over mean nothing
        self._phase = _Phase.OPENING
        self._epoch = 0
        self._is_open = False
        self._fresh = range(0)
        self._done = 0
        self._is_replayed = False
        self._actions: list[Action] = []
        self._watch = LossWatch()
        self._sent_to = 0
        self._longest_step = 1
        self._num_steps = 0

    # what the caller asks for

    def open(self, tokens: Sequence[int]) -> None:
        """Begins the text in all stages; `tokens` is what they may remember of it."""
        self._known = tokens
        self._open_all()

    def forward(self, step: Step) -> None:
        """The next tokens. They are computed once `num_outstanding` has fallen far enough."""
        self._inputs.append(step)
        self._outstanding.append(step)
        self._num_steps += 1
        self.length = step.end
        if self._phase is _Phase.READY:
            self._send(step)

    def grow(self, capacity: int) -> None:
        self.capacity = capacity
        for stage in self.stages:
            self._ask(stage, Grow(capacity))

    def truncate(self, length: int) -> None:
        """Forgets all but the beginning; not while a step is outstanding."""
        self._epoch += 1
        self.length = self._sent_to = length
        self._prefix = self._prefix[:length]
        self._inputs = [step for step in self._inputs if step.end <= length]
        for stage in self.stages:
            self._ask(stage, Truncate(length, self._epoch))

    def take_rows(self, position: int) -> Any:
        """What was computed for the step that began there; it is forgotten here."""
        return self._rows.pop(position)

    @property
    def num_outstanding(self) -> int:
        """Steps whose rows are still to come."""
        return len(self._outstanding)

    @property
    def is_settled(self) -> bool:
        """Whether all stages have done what they were told, steps aside."""
        return self._phase is _Phase.READY and not self._is_anything_pending

    # what happens

    def answered(self, stage: AttachedSpan, number: int, *, length: int, is_complete: bool) -> None:
        """A stage has done a command, or, with number 0, gives a sign of life."""
        self._heard(stage)
        stage.length, stage.is_complete = length, is_complete
        if number in stage.pending:
            stage.pending.discard(number)
            stage.num_answered += 1
        elif not number:
            stage.num_probe_answers += 1

    def computed(self, stage: AttachedSpan, rows: Rows) -> None:
        """A stage has rows for the caller: the last one, or one that keeps its rows back."""
        self._heard(stage)
        end = rows.position + rows.num_tokens
        if self._phase is _Phase.REPLAYING:
            is_newest = stage is self.stages[self._fresh[-1]]
            self._is_replayed = self._is_replayed or (is_newest and end == self._done)
        elif self._phase is _Phase.READY and self._is_awaited(stage, rows):
            self._results[rows.position] = rows
            for one in self.stages:
                one.length = max(one.length, end)

    def _is_awaited(self, stage: AttachedSpan, rows: Rows) -> bool:
        is_last = stage is self.stages[-1]
        return is_last and any(step.position == rows.position for step in self._outstanding)

    def failed(self, stage: AttachedSpan, number: int, fault: Fault) -> None:
        """A stage could not do something: the command of that number, unless it is 0."""
        self._heard(stage)
        stage.pending.discard(number)
        stage.faults.append(fault)

    def _heard(self, stage: AttachedSpan) -> None:
        """A stage has said something; one that says much more than it was asked for is lost."""
        stage.num_unanswered = 0
        stage.num_reports += 1
        asked = stage.num_sent + stage.num_probes + self._num_steps * (1 + self.num_recoveries)
        if stage.num_reports > asked + _MAX_UNASKED:
            self.lost(stage, "report.flood: it says what nobody asked for")

    def lost(self, stage: AttachedSpan, why: str) -> None:
        """The stream to a stage has ended."""
        stage.lost = stage.lost or why

    def replaced(self, stage: AttachedSpan, spans: Sequence[RemoteSpan]) -> None:
        """These have the blocks of a stage that was lost. Without any, the text cannot go on."""
        if not spans:
            self.error = CapacityError(
                f"blocks {stage.span.blocks} are lost ({stage.lost}), and no other peer has them",
                code="route.lost",
                hint="the conversation can go on when a peer hosts them again",
            )
            return
        index = self.stages.index(stage)
        self.stages[index : index + 1] = [AttachedSpan(span) for span in spans]
        fresh = range(index, index + len(spans))
        if self._is_open:
            self._stand(fresh)
            return
        for i, other in enumerate(self.stages):
            if i not in fresh:
                self._renew(i, other)
        self._open_all()

    # what is to be done

    def wait(self, now: float) -> None:
        """Somebody begins to wait. Stages are probed only if that takes a while."""
        self._watch.wait(self.stages, now)

    @property
    def wake_at(self) -> float:
        """When to `advance` if nothing happens before."""
        return self._watch.probe_at

    def advance(self, now: float) -> list[Action]:
        """What follows from what has happened, and from the time."""
        watch = self._watch
        watch.mind_the_gap(self.stages, now)
        while self.error is None and self._phase is not _Phase.REPLACING:
            try:
                watch.look(self.stages, self._epoch)
                if now >= watch.probe_at:
                    watch.tick(self.stages, self._given, self._longest_step, now)
                if not self._next_phase():
                    self._collect()
                    break
            except StageLostError as lost:
                self._let_go(lost.stage, str(lost))
            except CapacityError as error:
                self.error = error
        if now >= watch.probe_at:
            # Nobody is asked for signs of life while somebody else is looked for.
            watch.wait(self.stages, now)
        probed = [stage for stage in watch.to_probe if stage in self.stages]
        self._actions += [Probe(stage) for stage in probed]
        for stage in probed:
            stage.num_probes += 1
        watch.to_probe.clear()
        actions, self._actions = self._actions, []
        return actions

    @property
    def _given(self) -> int | None:
        """Tokens that are on their way to the first stage or through it; None while none flow."""
        return self._sent_to if self._phase in (_Phase.READY, _Phase.REPLAYING) else None

    def _let_go(self, stage: AttachedSpan, why: str) -> None:
        stage.lost = why
        self.num_recoveries += 1
        self._actions.append(Leave(stage))
        if self.num_recoveries > _MAX_RECOVERIES:
            self.replaced(stage, ())
            return
        self._phase = _Phase.REPLACING
        self._actions.append(Replace(stage, why))

    # phases

    def _next_phase(self) -> bool:
        """Goes on to the next phase where this one is over."""
        if self._phase is _Phase.READY or self._is_anything_pending:
            return False
        if self._phase is _Phase.OPENING:
            self._agree()
        elif self._phase is _Phase.STANDING:
            self._rewind()
        elif self._phase is _Phase.REWINDING:
            self._replay()
        elif self._is_replayed:
            self._resume()
        else:
            return False
        return True

    @property
    def _is_anything_pending(self) -> bool:
        return any(stage.pending for stage in self.stages)

    def _open_all(self) -> None:
        self._phase = _Phase.OPENING
        for stage in self.stages:
            self._actions.append(Attach(stage))
        for index in range(len(self.stages)):
            self._begin(index, self._known, withheld=0)

    def _begin(self, index: int, tokens: Sequence[int], *, withheld: int) -> None:
        follows = self.stages[index + 1] if index + 1 < len(self.stages) else None
        command = Open(tokens, self.capacity, follows, self._epoch, withheld)
        self._ask(self.stages[index], command)

    def _agree(self) -> None:
        """All stages remember as much as the one that remembers least."""
        self._phase, self._is_open = _Phase.READY, True
        length = min(stage.length for stage in self.stages)
        self._prefix = tuple(self._known[:length])
        self.length = self._sent_to = length
        if any(stage.length > length for stage in self.stages):
            self.truncate(length)

    def _stand(self, fresh: range) -> None:
        """The stages of `fresh` begin; all others go back to what is computed to the end."""
        self._phase, self._fresh = _Phase.STANDING, fresh
        self._epoch += 1
        self._done = self._outstanding[0].position if self._outstanding else self.length
        self._sent_to = 0 if 0 in fresh else self._done
        self._results.clear()
        for index in fresh:
            self._actions.append(Attach(self.stages[index]))
        for index, stage in enumerate(self.stages):
            if index in fresh:
                # What follows the new ones has had their rows; they themselves have not.
                withheld = self._done if index == fresh[-1] else 0
                self._begin(index, (), withheld=withheld)
            else:
                self._ask(stage, Truncate(self._done, self._epoch))

    def _rewind(self) -> None:
        behind = [i for i, stage in enumerate(self.stages) if stage.length < self._done]
        if any(i not in self._fresh for i in behind):
            # A recovery that was cut short by another loss left stages behind: they begin anew, too.
            again = range(min(behind), max(behind) + 1)
            for index in again:
                self._renew(index, self.stages[index])
            self._stand(again)
            return
        self._phase = _Phase.REWINDING
        first = self._fresh[0]
        for stage in self.stages[self._source + 1 : first]:
            self._ask(stage, Truncate(0, self._epoch))
        for stage, follows in pairwise(self.stages):
            if stage.follows is not follows:
                self._ask(stage, Redirect(follows, False, self._epoch))
        if self._source < 0:
            self._sent_to = 0

    @property
    def _source(self) -> int:
        """The nearest stage before the new ones that kept all its rows; -1 for the caller."""
        for index in range(self._fresh[0] - 1, -1, -1):
            stage = self.stages[index]
            if stage.is_complete and stage.length == self._done:
                return index
        return -1

    def _replay(self) -> None:
        """Gives the new stages what those before them had: from there, or else from further up."""
        self._phase, self._is_replayed = _Phase.REPLAYING, self._done == 0
        source = self._source
        if self._done == 0:
            return
        if source < 0:
            self._replay_inputs()
            return
        command = Redirect(self.stages[source + 1], True, self._epoch)
        # That it has sent everything is seen by what the new stages compute of it.
        self._tell(self.stages[source], command)

    def _replay_inputs(self) -> None:
        prefix, size = self._prefix, self._chunk_tokens
        for start in range(0, len(prefix), size):
            self._send(Step(start, prefix[start : start + size], None, "none"))
        for step in self._inputs:
            if step.end <= self._done:
                self._send(Step(step.position, step.tokens, step.x_TD, "none"))

    def _resume(self) -> None:
        self._phase = _Phase.READY
        for step in self._outstanding:
            self._send(step)

    def _collect(self) -> None:
        """Takes in what was computed, in order."""
        while self._outstanding and self._outstanding[0].position in self._results:
            step = self._outstanding[0]
            try:
                rows = self._check(step, self._results.pop(step.position))
            except RefusedRowsError as error:
                raise StageLostError(self.stages[-1], str(error)) from error
            self._outstanding.pop(0)
            if len(rows):
                self._rows[step.position] = rows

    def _renew(self, index: int, stage: AttachedSpan) -> None:
        self._actions.append(Leave(stage))
        self.stages[index] = AttachedSpan(stage.span)

    # commands

    def _send(self, step: Step) -> None:
        self._sent_to = step.end
        self._longest_step = max(self._longest_step, len(step.tokens))
        self._tell(self.stages[0], Forward(step, self._epoch))

    def _ask(self, stage: AttachedSpan, command: Command) -> None:
        """A command that is waited for."""
        self._tell(stage, command)
        stage.pending.add(stage.num_sent)

    def _tell(self, stage: AttachedSpan, command: Command) -> None:
        if isinstance(command, Open | Redirect):
            stage.follows = command.next
        stage.num_sent += 1
        self._actions.append(Tell(stage, stage.num_sent, command))
