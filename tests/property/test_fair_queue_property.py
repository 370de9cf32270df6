"""However much one owner asks for, others get their share of the time."""

from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.serve.fair_queue import FairQueue

_durations = st.lists(st.floats(0.01, 60.0), min_size=1, max_size=40)


@given(_durations, _durations, st.integers(1, 4))
def test_who_asks_all_the_time_gets_the_same_time(
    mine: list[float], yours: list[float], places: int
) -> None:
    """Up to the longest requests that are served at once, whatever they are, while both wait."""
    queue: FairQueue[str, float] = FairQueue()
    for owner, durations in (("me", mine), ("you", yours)):
        for one in durations:
            queue.add(owner, one)
    left = {"me": len(mine), "you": len(yours)}
    used = {"me": 0.0, "you": 0.0}
    now, running = 0.0, []
    while True:
        while len(running) < places and (following := queue.next()) is not None:
            running.append((now + following[1], *following))
            left[following[0]] -= 1
        if not all(left.values()) or not running:
            break
        running.sort()
        now, owner, took_s = running.pop(0)
        used[owner] += took_s
        queue.end(owner, took_s)
        # What is still served is not counted yet: at most so much, for each place.
        assert abs(used["me"] - used["you"]) <= (places + 1) * max(mine + yours)


@given(st.integers(1, 50), st.floats(0.1, 10.0))
def test_who_comes_late_waits_for_those_that_are_served(many: int, took_s: float) -> None:
    """And not for all that somebody else asked for before."""
    queue: FairQueue[str, int] = FairQueue()
    queue.begin("greedy")
    for number in range(many):
        queue.add("greedy", number)
    queue.add("late", 0)
    queue.end("greedy", took_s)
    assert queue.next() == ("late", 0)
    queue.end("late", took_s)
    # Who was away has saved up nothing.
    for _ in range(3):
        queue.add("late", 1)
    served = [queue.next() for _ in range(2)]
    assert ("greedy", 0) in served


def test_a_full_queue_takes_from_who_has_most() -> None:
    """The last of theirs; nobody loses a place to who has as many."""
    queue: FairQueue[str, int] = FairQueue()
    for number in range(5):
        queue.add("greedy", number)
    assert queue.displaced_by("greedy") is None
    assert queue.displaced_by("late") == 4
    queue.add("late", 0)
    assert queue.displaced_by("late") == 3
    queue.add("late", 1)
    assert queue.displaced_by("late") is None
    assert len(queue) == 5


def test_whoever_has_nothing_to_ask_is_forgotten() -> None:
    """Keys come and go; the queue does not grow with them."""
    queue: FairQueue[int, str] = FairQueue()
    for owner in range(100):
        queue.begin(owner)
        queue.add(owner, "waits")
        queue.discard(owner, "waits")
        queue.end(owner, 1.0)
    assert not queue._accounts and queue.next() is None
