"""Questions and their answers, windows of a text, and how sure a figure is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.errors import UsageError
from baremetalrt.node.estimates import mean_of, share_of
from baremetalrt.node.evaluation import windows_of
from baremetalrt.node.questions import has_answer, is_right, normalized, read_questions


@given(st.integers(0, 300), st.integers(4, 40), st.booleans())
def test_windows_are_scored_in_their_second_half(count: int, window: int, begins: bool) -> None:
    """As llama.cpp does: from one behind the middle on; what is left at the end is dropped."""
    tokens, beginning = list(range(100, 100 + count)), [1] if begins else []
    found = list(windows_of(tokens, window, beginning))
    if count < window:
        assert found == ([(tokens, 1)] if count >= 2 else [])
        return
    assert len(found) == count // window
    for number, (part, first) in enumerate(found):
        assert len(part) == window and first == window // 2 + 1
        assert part[: len(beginning)] == beginning
        assert part[len(beginning) :] == tokens[number * window :][len(beginning) : window]


@pytest.mark.parametrize(
    ("reply", "answers", "exact", "contained"),
    [
        ("Rome.", ["Rome"], True, True),
        ("the  ROME!", ["Rome"], True, True),
        ("It is Rome, of course.", ["Rome"], False, True),
        ("Romeo", ["Rome"], False, False),
        ("42", ["42", "forty-two"], True, True),
        ("forty two", ["42", "forty-two"], True, True),
        ("", ["x"], False, False),
        ("a", ["a"], True, True),
        ("ﬁne", ["fine"], True, True),
        ("Straße", ["STRASSE"], True, True),
    ],
)
def test_replies(reply: str, answers: list[str], exact: bool, contained: bool) -> None:
    assert is_right(reply, answers) is exact
    assert has_answer(reply, answers) is contained


@given(st.text(max_size=30))
def test_a_reply_is_what_it_is(text: str) -> None:
    assert is_right(text, [text]) and normalized(normalized(text)) == normalized(text)


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "[]",
        "{}",
        '{"question": "a"}',
        '{"question": 1, "answer": "b"}',
        '{"question": " ", "answer": "b"}',
        '{"question": "a", "answer": []}',
        '{"question": "a", "answer": {}}',
        '{"question": "a", "choices": ["b"], "answer": 0}',
        '{"question": "a", "choices": ["b", "b"], "answer": 0}',
        '{"question": "a", "choices": ["b", "c"], "answer": 2}',
        '{"question": "a", "choices": ["b", "c"], "answer": -1}',
        '{"question": "a", "choices": ["b", "c"], "answer": "d"}',
        '{"question": "a", "choices": ["b", "c"], "answer": true}',
        '{"question": "a", "choices": ["b", 3], "answer": 0}',
        "[" * 100_000,
    ],
)
def test_what_is_no_question_is_named_by_its_line(line: str) -> None:
    with pytest.raises(UsageError, match=r"q\.jsonl, line 2"):
        read_questions('{"question": "a", "answer": "b"}\n' + line, "q.jsonl")


def test_a_file_without_questions() -> None:
    with pytest.raises(UsageError, match="no questions"):
        read_questions("\n \n", "q.jsonl")


def test_how_sure_a_figure_is() -> None:
    found = mean_of(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.mean == 2.5 and found.error == pytest.approx(math.sqrt(5 / 3) / 2)
    assert math.isinf(mean_of(np.array([1.0])).error)
    # All of a few are not certain, half of many nearly are.
    assert share_of([True, True]).error > 0.15
    half = share_of([True, False] * 5000)
    assert half.mean == 0.5 and half.error == pytest.approx(0.005, rel=1e-2)
