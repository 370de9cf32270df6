"""Memory is shared among weights, texts and copies, and never more of it than there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.units import GIB, MIB, round_up
from baremetalrt.devices.fitting import MAX_STEP_TOKENS, FlatCost, Needs, fit

QUANTUM = 256
NEEDS = st.builds(
    Needs,
    weight_bytes=st.integers(MIB, 20 * GIB),
    cache=st.builds(FlatCost, st.integers(256, MIB)),
    row_bytes=st.integers(1000, 400_000),
    kept_row_bytes=st.integers(1000, 100_000),
    context=st.none() | st.integers(1, 50_000),
    max_context=st.integers(256, 200_000),
    num_texts=st.integers(1, 16),
    quantum=st.just(QUANTUM),
)


@given(needs=NEEDS, room=st.integers(MIB, 64 * GIB))
def test_what_is_given_away_is_there(needs: Needs, room: int) -> None:
    if needs.context and round_up(needs.context, QUANTUM) * needs.cache.num_bytes(1) > room:
        with pytest.raises(CapacityError) as caught:
            fit(needs, room, can_stream=True)
        assert caught.value.code == "context.memory"
        return
    fitted = fit(needs, room, can_stream=True)
    assert fitted.num_cells % QUANTUM == 0
    assert fitted.num_cells >= round_up(fitted.context, QUANTUM)
    if needs.context:
        assert fitted.context == needs.context
    else:
        assert 0 < fitted.context <= needs.max_context
    cells = fitted.num_cells * needs.cache.num_bytes(1)
    if fitted.weight_budget_bytes is None:
        assert needs.weight_bytes + cells + MAX_STEP_TOKENS * needs.row_bytes <= room
    elif fitted.weight_budget_bytes:
        rows = fitted.step_tokens * needs.row_bytes + fitted.prompt_tokens * needs.kept_row_bytes
        assert fitted.weight_budget_bytes + cells + rows < room
        assert fitted.prompt_tokens % fitted.step_tokens == 0
        assert fitted.copy_budget_bytes == 0


@given(needs=NEEDS, room=st.integers(MIB, 64 * GIB), more=st.integers(0, 8 * GIB))
def test_more_room_is_never_worse(needs: Needs, room: int, more: int) -> None:
    """What was resident stays so, and what streams gets no less."""
    if needs.context and round_up(needs.context, QUANTUM) * needs.cache.num_bytes(1) > room:
        return
    less, larger = (fit(needs, r, can_stream=True) for r in (room, room + more))
    if less.weight_budget_bytes is None:
        assert larger.weight_budget_bytes is None
    assert larger.copy_budget_bytes >= less.copy_budget_bytes


def large(row_bytes: int) -> Needs:
    return Needs(
        weight_bytes=4 * GIB,
        cache=FlatCost(1000),
        row_bytes=row_bytes,
        kept_row_bytes=12_000,
        context=None,
        max_context=8192,
        num_texts=1,
        quantum=QUANTUM,
    )


def test_who_cannot_stream_takes_what_the_system_pages() -> None:
    """A span that is hosted was weighed before; its mapped weights may exceed what is free."""
    needs = large(row_bytes=1000)
    assert fit(needs, GIB, can_stream=False).weight_budget_bytes is None
    assert fit(needs, GIB, can_stream=True).weight_budget_bytes is not None


def test_a_small_room_makes_small_steps() -> None:
    needs = large(row_bytes=150_000)
    steps = [fit(needs, room * MIB, can_stream=True).step_tokens for room in (50, 200, 4000)]
    assert steps == [32, 128, 512]
    prompts = [fit(needs, room * MIB, can_stream=True).prompt_tokens for room in (50, 200, 4000)]
    assert prompts == [416, 1664, 4096]
