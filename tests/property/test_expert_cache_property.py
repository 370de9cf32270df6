"""Slots of experts: what is asked for has one, and favourites keep theirs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from baremetalrt.blocks.expert_cache import ExpertCache, ExpertKind, Key, share_slots
from baremetalrt.core.errors import CapacityError

KEYS = st.tuples(st.integers(0, 3), st.integers(0, 7))


class Slots(RuleBasedStateMachine):
    """What a slot holds, by what was read into it."""

    @initialize(num_slots=st.integers(1, 8))
    def begin(self, num_slots: int) -> None:
        self.cache = ExpertCache(num_slots)
        self.holds: list[Key | None] = [None] * num_slots

    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def request(self, data: st.DataObject, fails: bool) -> None:
        most = self.cache.num_slots
        keys = data.draw(st.lists(KEYS, min_size=1, max_size=most, unique=True))
        slots, missing = self.cache.request(keys)
        assert len(set(slots)) == len(keys)
        assert {key for key, _ in missing} == {k for k in keys if k not in self.holds}
        for key, slot in missing:
            assert self.holds[slot] not in keys
            self.holds[slot] = None if fails else key
            if fails:
                self.cache.forget(key)
        if not fails:
            assert [self.holds[slot] for slot in slots] == keys


TestSlots = Slots.TestCase


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_favourites_stay(seed: int) -> None:
    """With routing that prefers some, more is found than by what was used last."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, 65) ** 1.1
    draws = rng.choice(64, size=6000, p=shares / shares.sum())
    cache, recent, hits = ExpertCache(16), list[int](), 0
    for expert in draws:
        cache.request([(0, int(expert))])
        if expert in recent:
            hits += 1
            recent.remove(expert)
        recent = [*recent, expert][-16:]
    assert cache.hits + cache.misses == len(draws)
    assert cache.hits > 1.05 * hits


def test_what_was_a_favourite_long_ago_makes_way() -> None:
    cache = ExpertCache(4)
    for _ in range(1000):
        cache.request([(0, 0), (0, 1), (0, 2), (0, 3)])
    before = cache.hits
    for _ in range(3000):
        for expert in range(4, 8):
            cache.request([(0, expert)])
    assert cache.hits - before > 8000


@given(
    kinds=st.lists(
        st.builds(ExpertKind, st.integers(1, 40), st.integers(1, 128), st.integers(1, 5000)),
        min_size=1,
        max_size=4,
    ),
    budget=st.integers(1, 40_000_000),
)
def test_every_kind_of_experts_has_room_for_one_block(kinds: list[ExpertKind], budget: int) -> None:
    """However few blocks are of a kind; and nothing is kept twice."""
    if sum(kind.block_bytes for kind in kinds) > budget:
        with pytest.raises(CapacityError):
            share_slots(kinds, budget)
        return
    slots = share_slots(kinds, budget)
    taken = sum(n * kind.expert_bytes for n, kind in zip(slots, kinds, strict=True))
    everything = sum(kind.num_blocks * kind.block_bytes for kind in kinds)
    assert taken <= budget
    assert taken > min(budget, everything) - sum(kind.expert_bytes for kind in kinds) - 1
    for n, kind in zip(slots, kinds, strict=True):
        assert kind.num_experts <= n <= kind.num_experts * kind.num_blocks
