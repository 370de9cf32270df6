"""What the cache gives up, and in which order, whatever is in it."""

from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.swarm.cache_policy import HALF_LIFE_S, CachedBlock, choose_evictions, decayed

blocks = st.lists(
    st.builds(
        CachedBlock,
        torrent=st.sampled_from(["a", "b", "c"]),
        block=st.integers(0, 30),
        num_bytes=st.integers(0, 1000),
        uses=st.floats(0, 50),
        num_sources=st.none() | st.integers(0, 20),
    ),
    max_size=40,
    unique_by=lambda b: (b.torrent, b.block),
)


@given(blocks, st.integers(0, 50_000), st.integers(0, 50_000))
def test_no_more_goes_than_has_to(cached: list[CachedBlock], extra: int, budget: int) -> None:
    """Without the last eviction the budget would not be kept; with all of them it is, if it can be."""
    used = extra + sum(b.num_bytes for b in cached)
    chosen = choose_evictions(cached, used_bytes=used, budget_bytes=budget)
    freed = sum(b.num_bytes for b in chosen)
    if chosen:
        assert used - freed + chosen[-1].num_bytes > budget
    if used - freed > budget:
        assert {b for b in cached if b.num_bytes} == set(chosen)


@given(blocks, st.integers(0, 20_000))
def test_what_stays_is_worth_at_least_what_goes(cached: list[CachedBlock], budget: int) -> None:
    """No block goes while one that is worth less stays."""
    used = sum(b.num_bytes for b in cached)
    chosen = choose_evictions(cached, used_bytes=used, budget_bytes=budget)
    kept = [b for b in cached if b not in chosen and b.num_bytes]
    if chosen and kept:
        assert max(b.value for b in chosen) <= min(b.value for b in kept)


@given(blocks, st.integers(0, 20_000), st.randoms())
def test_the_order_of_listing_decides_nothing(cached: list[CachedBlock], budget: int, rng) -> None:  # type: ignore[no-untyped-def]
    """The same blocks give the same evictions."""
    used = sum(b.num_bytes for b in cached)
    shuffled = list(cached)
    rng.shuffle(shuffled)
    first = choose_evictions(cached, used_bytes=used, budget_bytes=budget)
    assert choose_evictions(shuffled, used_bytes=used, budget_bytes=budget) == first


@given(blocks)
def test_within_the_budget_nothing_goes(cached: list[CachedBlock]) -> None:
    """Room that is there is used."""
    used = sum(b.num_bytes for b in cached)
    assert choose_evictions(cached, used_bytes=used, budget_bytes=used) == []


@given(st.floats(0.1, 50), st.integers(0, 20), st.integers(1, 20))
def test_rare_blocks_are_worth_more(uses: float, sources: int, more: int) -> None:
    """Of two blocks used alike, the one that fewer peers have is kept."""
    rare = CachedBlock("a", 0, 100, uses, sources)
    common = CachedBlock("b", 0, 100, uses, sources + more)
    assert choose_evictions([rare, common], used_bytes=200, budget_bytes=100) == [common]


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.integers(0, 20))
def test_used_blocks_are_worth_more(uses: float, more: float, sources: int) -> None:
    """Of two blocks equally rare, the one that is used more is kept."""
    little = CachedBlock("a", 0, 100, uses, sources)
    often = CachedBlock("b", 0, 100, uses + more, sources)
    assert choose_evictions([often, little], used_bytes=200, budget_bytes=100) == [little]


@given(st.floats(0, 1000), st.floats(0, 10 * HALF_LIFE_S))
def test_uses_fade(uses: float, age_s: float) -> None:
    """A use counts half after the half-life, and never more than it did."""
    assert decayed(uses, age_s) <= uses
    assert decayed(decayed(uses, age_s), HALF_LIFE_S) == decayed(uses, age_s) / 2
