"""Answers that say the same over and over are told from those that only repeat something."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.session.loops import LoopFinder, loops

_TOKENS = st.integers(0, 5)


def ends_at(tokens: list[int]) -> int | None:
    finder = LoopFinder()
    return next((i for i, token in enumerate(tokens, 1) if finder.add(token)), None)


@given(st.lists(_TOKENS, max_size=300), st.lists(_TOKENS, min_size=1, max_size=96))
def test_a_loop_is_found_whatever_came_before(before: list[int], span: list[int]) -> None:
    found = ends_at(before + span * (1400 // len(span)))
    assert found is not None and found <= len(before) + 96 * 9 + 224


@pytest.mark.parametrize("length", [1, 3, 20, 96])
def test_a_few_repetitions_are_none(length: int) -> None:
    """A table of a few equal rows, and a chorus."""
    span = list(range(length))
    few = span * min(7, 150 // length + 1)
    assert ends_at([*few, 500, *few, 501, *few]) is None


def test_what_counts_is_no_loop() -> None:
    rows = [token for i in range(400) for token in (7, 8, i, 9)]
    assert ends_at(rows) is None


def test_short_texts_are_none() -> None:
    assert not loops([]) and not loops([1] * 100) and loops([1] * 400)
