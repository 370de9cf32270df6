"""A caller that was asleep blames nobody for it. In virtual time."""

from dataclasses import dataclass

from baremetalrt.core.spans import BlockSpan
from baremetalrt.peers.recovery import Recovery
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.peers.stage_commands import Action, Probe, Replace, Step

_TICK_S = 0.5
# Who is asked once more, and has answered none of these, is gone.
_UNANSWERED = 5


@dataclass(frozen=True)
class _Rows:
    position: int
    num_tokens: int


def waiting_text() -> tuple[Recovery, float]:
    """A step is computed by two peers, whose answers are on their way; and the time."""
    spans = [
        RemoteSpan(name, f"{name}:1", "model", BlockSpan(start, start + 3), 6)
        for name, start in (("a", 0), ("b", 3))
    ]
    text = Recovery(spans, 256, lambda step, rows: [rows], chunk_tokens=8)
    text.open((1, 2))
    now = 0.0
    text.wait(now)
    text.advance(now)
    for stage in text.stages:
        text.answered(stage, 1, length=0, is_complete=True)
    text.advance(now)
    assert text.is_settled
    text.forward(Step(0, (1, 2), None, "last"))
    text.wait(now)
    for _ in range(_UNANSWERED):
        now += _TICK_S
        assert not replacements(text.advance(now))
    assert all(stage.num_unanswered == _UNANSWERED for stage in text.stages)
    return text, now


def replacements(actions: list[Action]) -> list[Action]:
    return [action for action in actions if isinstance(action, Replace)]


def test_who_slept_hears_first_what_was_said() -> None:
    """The lid was closed for an hour: all answers are there, and have only to be read."""
    text, now = waiting_text()
    now += 3600.0
    assert not replacements(text.advance(now))
    assert text.wake_at > now
    for stage in text.stages:
        text.answered(stage, 0, length=2, is_complete=True)
    text.computed(text.stages[-1], _Rows(0, 2))
    assert not replacements(text.advance(now + 0.01))
    assert text.num_outstanding == 0 and text.num_recoveries == 0


def test_who_does_not_answer_afterwards_is_lost_all_the_same() -> None:
    """The wait begins anew, and has an end; those that answer stay."""
    text, now = waiting_text()
    now += 3600.0
    text.advance(now)
    silent, heard = text.stages
    lost: list[Action] = []
    for _ in range(2 * _UNANSWERED):
        now += _TICK_S
        actions = text.advance(now)
        lost += replacements(actions)
        if lost:
            break
        assert Probe(silent) in actions
        text.answered(heard, 0, length=0, is_complete=True)
    assert [action.stage for action in lost if isinstance(action, Replace)] == [silent]


def test_who_looks_a_little_late_was_not_asleep() -> None:
    """Or a caller with much to do would never find out that a peer is gone."""
    text, now = waiting_text()
    now += 2 * _TICK_S
    lost = replacements(text.advance(now))
    lost += replacements(text.advance(now + 2 * _TICK_S))
    assert lost
