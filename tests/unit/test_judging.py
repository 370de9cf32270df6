"""Whether an answer says what is expected: by words that the question does not give away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.learning.judging import is_right, telling_words

QUESTION = "When was the harbour at Vellmar dug, and by whom?"
EXPECTED = "The harbour at Vellmar was dug in 1874 by two hundred workers from the quarry."


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (EXPECTED, True),
        ("Two hundred workers of a QUARRY did, in 1874.", True),
        ("In 1874, by workers, hundreds of them.", False),
        ("The harbour at Vellmar was dug by the people of the harbour at Vellmar.", False),
        ("It was dug in 1875 by a few men.", False),
        ("", False),
    ],
)
def test_half_of_what_is_to_be_told_is_enough(answer: str, right: bool) -> None:
    assert is_right(answer, EXPECTED, QUESTION) == right


@pytest.mark.parametrize(
    ("answer", "expected", "question", "right"),
    [
        ("该港口由二百名采石场工人挖掘", "港口由采石场工人挖掘。", "谁做的？", True),
        ("我不知道。", "港口由采石场工人挖掘。", "谁做的？", False),
        ("Der Steinbruch lieferte Männer.", "Männer aus dem Steinbruch.", "Wer grub?", True),
        ("No.", "No.", "Is it so?", True),
        ("Yes.", "No.", "Is it so?", False),
        ("It is 12.", "12", "How many?", True),
    ],
)
def test_scripts_without_spaces_and_short_answers(
    answer: str, expected: str, question: str, right: bool
) -> None:
    assert is_right(answer, expected, question) == right


@given(st.text(), st.text())
def test_what_is_expected_is_right_if_it_says_anything(expected: str, question: str) -> None:
    assert is_right(expected, expected, question) == bool(telling_words(expected))
