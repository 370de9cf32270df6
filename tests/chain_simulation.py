"""A chain of peers in virtual time: peers that compute, are slow, lie or die, and a caller that drives.

What a peer computes is a hash of everything that its blocks were given, and in which steps: two runs end
alike only if every block was given the same rows in the same shapes.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from baremetalrt.core.spans import BlockSpan
from baremetalrt.peers.attached_span import AttachedSpan, Blame, Fault
from baremetalrt.peers.recovery import Recovery, RefusedRowsError
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

NUM_BLOCKS: Final = 6
CHUNK_TOKENS: Final = 8
NUM_UNASKED: Final = 100
FAR_AWAY: Final = 1_000_000
# Nothing that ends takes so long.
_FOREVER_S: Final = 20_000.0

# `killed`: its streams end. `silent`: the cable is out. `hung`: it answers probes and computes nothing.
# `slanders…`: it says that an honest neighbour is gone, or sent nonsense. `garbles`: it computes that.
# `floods`: it says much that nobody asked for.
Failure = Literal[
    "killed", "silent", "hung", "slanders next", "slanders previous", "garbles", "floods"
]
FAILURES: Final[tuple[Failure, ...]] = (
    *("killed", "silent", "hung"),
    *("slanders next", "slanders previous", "garbles", "floods"),
)


@dataclass(frozen=True)
class PeerPlan:
    """How a peer will do: it fails, if at all, once it was given so many commands."""

    blocks: BlockSpan
    token_s: float = 0.0
    says_token_s: bool = True
    failure: Failure | None = None
    fails_after: int = 0


@dataclass(frozen=True)
class Rows:
    """What a stage passes on, or the last one answers: see `Result` in the protocol."""

    position: int
    num_tokens: int
    values: tuple[int, ...]


class HonestPeerBlamedError(AssertionError):
    """A peer that did what it should was replaced."""


class TookForeverError(AssertionError):
    """Somebody waited without a bound."""


def compute(block: int, history: int, step: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """What a block makes of a step, after all that it was given before."""
    history = hash((block, history, step))
    return history, tuple(hash((history, i, x)) for i, x in enumerate(step))


def alone(steps: Sequence[Step]) -> dict[int, tuple[int, ...]]:
    """What one machine with all blocks computes."""
    histories = [0] * NUM_BLOCKS
    results = {}
    for step in steps:
        values = tuple(step.tokens)
        for block in range(NUM_BLOCKS):
            histories[block], values = compute(block, histories[block], values)
        results[step.position] = values
    return results


@dataclass(eq=False)
class _Text:
    """A text at a peer, as `hosted_text.py` has it."""

    stage: AttachedSpan
    blocks: BlockSpan
    follows: AttachedSpan | None = None
    epoch: int = 0
    newest_epoch: int = 0
    withheld: int = 0
    length: int = 0
    kept: list[Rows] = field(default_factory=list)
    histories: list[tuple[int, list[int]]] = field(default_factory=list)
    queue: list[tuple[int, Command | Rows, int, bool]] = field(default_factory=list)
    is_busy: bool = False
    is_open: bool = False


class Peer:
    """A machine that hosts a span."""

    def __init__(self, name: str, plan: PeerPlan) -> None:
        self.name, self.plan = name, plan
        self.num_commands = 0
        self.texts: dict[AttachedSpan, _Text] = {}
        said = plan.token_s if plan.says_token_s else None
        self.span = RemoteSpan(name, name, "model", plan.blocks, NUM_BLOCKS, said)

    def has(self, failure: str) -> bool:
        plan = self.plan
        return plan.failure == failure and self.num_commands > plan.fails_after

    @property
    def is_gone(self) -> bool:
        return self.has("killed") or self.has("silent")

    @property
    def can_wrong_others(self) -> bool:
        return self.is_at_fault and not self.is_gone

    @property
    def is_at_fault(self) -> bool:
        return self.plan.failure is not None and self.num_commands > self.plan.fails_after


class World:
    """Peers, their links, and one caller with one text. `chance` draws what links take."""

    def __init__(
        self,
        route: Sequence[PeerPlan],
        spares: Sequence[PeerPlan],
        chance: random.Random,
        *,
        latency_s: float = 0.01,
    ) -> None:
        self.now = 0.0
        self.chance = chance
        self.latency_s = latency_s
        self.peers = {f"r{i}": Peer(f"r{i}", plan) for i, plan in enumerate(route)}
        self.text = Recovery(
            [peer.span for peer in self.peers.values()], 1000, check, chunk_tokens=CHUNK_TOKENS
        )
        self.spares = [Peer(f"s{i}", plan) for i, plan in enumerate(spares)]
        self.num_wronged = 0
        self.has_run_out = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        # Streams keep their order.
        self._last: dict[object, float] = {}

    # time and links

    def at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), act))

    def link(self, stream: object, act: Callable[[], None]) -> None:
        """Something arrives, after what was sent before it on the same stream."""
        takes_s = self.latency_s * self.chance.uniform(0.5, 2.0)
        when = max(self.now + takes_s, self._last.get(stream, 0.0))
        self._last[stream] = when
        self.at(when, act)

    def peer(self, stage: AttachedSpan) -> Peer:
        return self.peers[stage.span.id]

    # the caller

    def run(self, *asks: Callable[[], None], waits_for_each: bool = True) -> None:
        """Does what is asked for, each to its end, or all to their end."""
        for number, ask in enumerate(asks, 1):
            if self.text.error is None:
                ask()
                if waits_for_each or number == len(asks):
                    self.wait(lambda: self.text.is_settled and not self.text.num_outstanding)

    def wait(self, is_done: Callable[[], bool]) -> None:
        text, began = self.text, self.now
        text.wait(self.now)
        while True:
            for action in text.advance(self.now):
                self._act(action)
            if text.error is not None or is_done():
                return
            if self._events and self._events[0][0] <= text.wake_at:
                self.now, _, act = heapq.heappop(self._events)
                act()
            else:
                self.now = max(self.now, text.wake_at)
            if self.now - began > _FOREVER_S:
                raise TookForeverError(f"waited since {began:.0f} s")

    def _act(self, action: Action) -> None:
        match action:
            case Attach(stage):
                self.peer(stage).texts[stage] = _Text(stage, stage.span.blocks)
            case Tell(stage, number, command):
                self.link(("to", stage), lambda: self._arrive(stage, (0, command, number, False)))
            case Probe(stage):
                self.link(("to", stage), lambda: self._answer_probe(stage))
            case Leave(stage):
                self.peer(stage).texts.pop(stage, None)
            case Replace(stage, _):
                self._check_blame(stage)
                takes_s = self.chance.uniform(0.01, 5.0)
                found = self._find(stage.span.blocks)
                self.at(self.now + takes_s, lambda: self.text.replaced(stage, found))

    def _check_blame(self, stage: AttachedSpan) -> None:
        peer = self.peer(stage)
        if peer.is_at_fault:
            return
        # Where one says this and the other that, nobody can tell who is at fault: but no peer that is
        # costs the route more than one that is not.
        self.num_wronged += 1
        if self.num_wronged > sum(p.can_wrong_others for p in self.peers.values()):
            raise HonestPeerBlamedError(f"{peer.name} after {self.now:.1f} s: {stage.lost}")

    def _find(self, blocks: BlockSpan) -> list[RemoteSpan]:
        """The first of those in reserve that have the blocks, alone or one after the other."""
        found = list[RemoteSpan]()
        start = blocks.start
        while start < blocks.end:
            able = [p for p in self.spares if p.plan.blocks.start <= start < p.plan.blocks.end]
            if not able:
                self.has_run_out = True
                return []
            peer = able[0]
            self.spares.remove(peer)
            part = BlockSpan(start, min(blocks.end, peer.plan.blocks.end))
            self.peers[peer.name] = peer
            said = peer.span.token_s
            found.append(RemoteSpan(peer.name, peer.name, "model", part, NUM_BLOCKS, said))
            start = part.end
        return found

    # the peers

    def _report(self, stage: AttachedSpan, act: Callable[[], None]) -> None:
        if not self.peer(stage).is_gone and stage in self.peer(stage).texts:
            self.link(("from", stage), act)

    def _answer_probe(self, stage: AttachedSpan) -> None:
        text = self.peer(stage).texts.get(stage)
        if text is None or self._is_dead(stage):
            return
        self._done(text, 0)

    def _is_dead(self, stage: AttachedSpan) -> bool:
        """Whether nothing reaches a peer; who talks to one that was killed is told so."""
        peer = self.peer(stage)
        if peer.has("killed"):
            self.link(("from", stage), lambda: self.text.lost(stage, "the stream has ended"))
        return peer.is_gone

    def _arrive(self, stage: AttachedSpan, item: tuple[int, Command | Rows, int, bool]) -> None:
        peer = self.peer(stage)
        peer.num_commands += 1
        text = peer.texts.get(stage)
        if text is None or self._is_dead(stage):
            return
        if isinstance(item[1], Truncate):
            text.newest_epoch = item[1].epoch
        text.queue.append(item)
        self._work(text)

    def _work(self, text: _Text) -> None:
        peer = self.peer(text.stage)
        if text.is_busy or not text.queue or peer.is_gone or peer.has("hung"):
            return
        epoch, body, number, was_passed = text.queue.pop(0)
        text.is_busy = True
        num_tokens = 0
        if isinstance(body, Forward):
            epoch, body = body.epoch, _rows_of(body.step)
        if isinstance(body, Rows) and epoch == text.epoch >= text.newest_epoch:
            num_tokens = body.num_tokens

        def finish() -> None:
            text.is_busy = False
            if not (peer.is_gone or peer.has("hung")):
                if isinstance(body, Rows):
                    self._step(text, epoch, body, was_passed)
                else:
                    self._do(text, number, body)
            self._work(text)

        self.at(self.now + num_tokens * peer.plan.token_s * self.chance.uniform(0.5, 1.0), finish)

    def _do(self, text: _Text, number: int, command: Command) -> None:
        match command:
            case Open(tokens, _, follows, epoch, withheld):
                text.epoch, text.follows, text.withheld = epoch, follows, withheld
                text.is_open = True
                assert not tokens
            case Truncate(length, epoch):
                text.length, text.epoch = min(length, text.length), epoch
                text.withheld = min(text.withheld, text.length)
                text.histories = [one for one in text.histories if one[0] <= text.length]
                text.kept = [r for r in text.kept if r.position + r.num_tokens <= text.length]
            case Redirect(follows, resend, epoch):
                text.follows, text.epoch = follows, epoch
                for rows in text.kept if resend else ():
                    self._pass_on(text, rows)
            case Grow():
                pass
            case _:
                raise AssertionError(command)
        self._done(text, number)

    def _done(self, text: _Text, number: int) -> None:
        length = text.length
        self._report(
            text.stage,
            lambda: self.text.answered(text.stage, number, length=length, is_complete=True),
        )

    def _step(self, text: _Text, epoch: int, rows: Rows, was_passed: bool) -> None:
        peer = self.peer(text.stage)
        if epoch != text.epoch or epoch < text.newest_epoch:
            return
        if rows.position != text.length or "?" in map(str, rows.values):
            self._fault(text, "step.position", Blame.PREVIOUS if was_passed else Blame.HERE)
            return
        if peer.has("slanders next") or peer.has("slanders previous"):
            self._fault(text, "a lie", Blame.NEXT if peer.has("slanders next") else Blame.PREVIOUS)
            return
        histories = list(text.histories[-1][1]) if text.histories else [0] * NUM_BLOCKS
        values = rows.values
        for block in text.blocks:
            histories[block], values = compute(block, histories[block], values)
        if peer.has("garbles"):
            values = ()
        if peer.has("floods"):
            said = Rows(rows.position + FAR_AWAY, rows.num_tokens, ("unasked",))
            for _ in range(NUM_UNASKED):
                self._report(text.stage, lambda: self.text.computed(text.stage, said))
        text.length += rows.num_tokens
        text.histories.append((text.length, histories))
        computed = Rows(rows.position, rows.num_tokens, values)
        if text.blocks.end < NUM_BLOCKS:
            text.kept.append(computed)
            if rows.position >= text.withheld and text.follows is not None:
                self._pass_on(text, computed)
                return
        self._report(text.stage, lambda: self.text.computed(text.stage, computed))

    def _pass_on(self, text: _Text, rows: Rows) -> None:
        follows, epoch = text.follows, text.epoch
        assert follows is not None

        def arrive() -> None:
            to = self.peer(follows)
            if to.has("silent"):
                return
            if to.has("killed") or follows not in to.texts:
                self.link(("back", text.stage, follows), lambda: refuse())
            elif not rows.values:
                self._fault(to.texts[follows], "rows.shape", Blame.PREVIOUS)
            else:
                self._arrive(follows, (epoch, rows, 0, True))

        def refuse() -> None:
            if text.epoch == epoch and text.follows is follows:
                self._fault(text, "next.lost", Blame.NEXT)

        self.link((text.stage, follows), arrive)

    def _fault(self, text: _Text, code: str, blame: Blame) -> None:
        fault = Fault(code, "", blame, text.epoch)
        self._report(text.stage, lambda: self.text.failed(text.stage, 0, fault))


def _rows_of(step: Step) -> Rows:
    return Rows(step.position, len(step.tokens), tuple(step.tokens))


def check(step: Step, rows: Rows) -> tuple[int, ...]:
    """As the caller looks at what comes back."""
    if len(rows.values) != len(step.tokens):
        raise RefusedRowsError("an answer of the wrong shape")
    return rows.values
