"""Which stage of a chain is lost, and whose fault it is. Decides; whoever asks has the time.

A stage is lost when its stream ends, when it answers no probe, when what it answers is wrong, or when it
lags: when it has something to do and gets nowhere for longer than it should take. That time counts from
its last progress, and grows with how long its tokens take.

What a stage says of its neighbours is believed once: nobody can tell which of the two is at fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.errors import CapacityError
from baremetalrt.peers.attached_span import NOT_HOSTED, AttachedSpan, Blame, Fault

# While a caller waits, it asks every stage for a sign of life so often; after so many questions without
# an answer, a stage is gone.
PROBE_INTERVAL_S: Final = 0.5
_MAX_UNANSWERED: Final = 5
# A caller that looks so late was asleep itself: nobody else is to blame for that time.
_ASLEEP_S: Final = 2.0
_LACK_OF_ROOM: Final = ("cache.full", "context.memory")


class StageLostError(Exception):
    """A stage is gone; why."""

    def __init__(self, stage: AttachedSpan, why: str) -> None:
        super().__init__(why)
        self.stage = stage


@dataclass(frozen=True)
class _Accusation:
    """A stage says that the next one is gone. That one's signs of life are counted from here."""

    accuser: AttachedSpan
    accused: AttachedSpan
    why: str
    num_probe_answers: int


class LossWatch:
    """Looks after the stages of one text.

    `probe_at` is when to look at the clock, and ask for signs of life, next; `to_probe` says of whom.
    """

    def __init__(self) -> None:
        self.probe_at = 0.0
        self.to_probe: list[AttachedSpan] = []
        self._looked_at: float | None = None
        self._accusation: _Accusation | None = None
        self._num_believed: dict[str, int] = {}

    def wait(self, stages: Sequence[AttachedSpan], now: float) -> None:
        """Somebody begins to wait. Stages are probed only if that takes a while."""
        self.mind_the_gap(stages, now)
        self.probe_at = now + PROBE_INTERVAL_S

    def mind_the_gap(self, stages: Sequence[AttachedSpan], now: float) -> None:
        """Forgives the time in which nobody looked, and nobody read what was answered: all waits anew."""
        gap_s = now - self._looked_at if self._looked_at is not None else 0.0
        self._looked_at = now
        if gap_s <= _ASLEEP_S:
            return
        self.probe_at = max(self.probe_at, now + PROBE_INTERVAL_S)
        for stage in stages:
            stage.num_unanswered = 0
            stage.since = stage.since + gap_s if stage.since is not None else None

    def look(self, stages: Sequence[AttachedSpan], epoch: int) -> None:
        """What was heard of them.

        Raises:
            StageLostError: the first stage that is gone.
            CapacityError: one has no room.
        """
        for stage in stages:
            if stage.lost is not None:
                raise StageLostError(stage, stage.lost)
        self._settle_accusation(stages)
        for index, stage in enumerate(stages):
            # What a stage said of a neighbour that was replaced since is news of yesterday.
            stage.faults = [fault for fault in stage.faults if fault.epoch == epoch]
            if stage.faults:
                self._judge(stages, index, stage.faults.pop(0))

    def tick(
        self, stages: Sequence[AttachedSpan], given: int | None, longest_step: int, now: float
    ) -> None:
        """What the clock says. `given`: tokens that the first stage has, or None while none flow.

        `longest_step`: tokens in the longest step there was. Raises like `look`.
        """
        self.probe_at = now + PROBE_INTERVAL_S
        for stage in stages:
            if stage.num_unanswered >= _MAX_UNANSWERED:
                silence_s = _MAX_UNANSWERED * PROBE_INTERVAL_S
                raise StageLostError(stage, f"no answer for {silence_s:.1f} s")
        before = None
        for stage in stages:
            is_busy = bool(stage.pending) or (given is not None and stage.length < given)
            if not is_busy or stage.since is None or stage.milestone > stage.seen:
                stage.note_progress(is_busy=is_busy, now=now)
            elif now - stage.since > stage.longest_lag_s(longest_step):
                why = f"it computed nothing for {now - stage.since:.0f} s"
                # Rows that one has passed on and the next one does not have: either may be wrong.
                accuser = stage if stage.pending else before
                raise StageLostError(self.blamed(accuser or stage, stage), why)
            # Until it has gone back where it was told to, what it has is of no use to the next one.
            given = None if given is None else 0 if stage.pending else stage.length
            before = stage
        for stage in stages:
            self._probe(stage)

    def blamed(self, accuser: AttachedSpan, accused: AttachedSpan) -> AttachedSpan:
        """Who of two has to go when one is at fault: the first time, the one who is accused."""
        if accuser is accused:
            return accused
        times = self._num_believed.get(accuser.span.id, 0)
        self._num_believed[accuser.span.id] = times + 1
        return accuser if times else accused

    def _judge(self, stages: Sequence[AttachedSpan], index: int, fault: Fault) -> None:
        stage = stages[index]
        if fault.code in _LACK_OF_ROOM:
            raise CapacityError(
                f"peer {stage.span.id[:8]}: {fault.message}",
                code=fault.code,
                hint="wait for other answers to end, or ask another peer",
            )
        named = index + {Blame.PREVIOUS: -1, Blame.NEXT: 1}.get(fault.blame, 0)
        # A peer cannot blame somebody outside of the route.
        accused = stages[named] if 0 <= named < len(stages) else stage
        if fault.blame is not Blame.NEXT or accused is stage:
            stage.has_moved = accused is stage and fault.code == NOT_HOSTED
            raise StageLostError(self.blamed(stage, accused), str(fault))
        # A neighbour that is gone is gone for the caller, too: for that, nobody has to be believed.
        self._accusation = _Accusation(stage, accused, str(fault), accused.num_probe_answers)
        self._probe(accused)

    def _settle_accusation(self, stages: Sequence[AttachedSpan]) -> None:
        accusation = self._accusation
        if accusation is None:
            return
        accused = accusation.accused
        if accusation.accuser not in stages or accused not in stages:
            self._accusation = None
        elif accused.num_probe_answers > accusation.num_probe_answers:
            self._accusation = None
            raise StageLostError(self.blamed(accusation.accuser, accused), accusation.why)

    def _probe(self, stage: AttachedSpan) -> None:
        stage.num_unanswered += 1
        self.to_probe.append(stage)
