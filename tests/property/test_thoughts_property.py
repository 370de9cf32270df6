"""Thoughts are told from answers however the text is cut."""

from hypothesis import example, given
from hypothesis import strategies as st

from baremetalrt.serve.openai.reasoning import THINK, ThoughtFinder

OPENING, CLOSING = THINK

PIECES = st.sampled_from(
    [OPENING, CLOSING, "<thi", "nk>", "</", "think>", "<", "a word", " ", "\n", "\n\n", "é"]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def parts(text: str, cuts: list[int], *, is_inside: bool) -> tuple[str, str]:
    finder = ThoughtFinder(is_inside=is_inside)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    found = [finder.add(text[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    found.append(finder.finish())
    return "".join(thought for thought, _ in found), "".join(answer for _, answer in found)


def expected(text: str, *, is_inside: bool) -> tuple[str, str]:
    """The same, of a text that is all there."""
    if not is_inside:
        start = text.lstrip()
        if not start.startswith(OPENING):
            return "", text
        text = start[len(OPENING) :]
    thought, closing, answer = text.partition(CLOSING)
    return thought.lstrip().rstrip() if closing else thought.lstrip(), answer.lstrip()


@given(TEXTS, st.lists(st.integers(0, 60), max_size=12), st.booleans())
@example(f"{OPENING}\nwhy\n{CLOSING}\n\nbecause", [3, 9, 12, 14, 20], False)
@example(f"why\n{CLOSING}because", [], True)
@example(f"no {OPENING} here{CLOSING}", [1, 5], False)
def test_thoughts_are_found_however_the_text_is_cut(
    text: str, cuts: list[int], is_inside: bool
) -> None:
    assert parts(text, cuts, is_inside=is_inside) == expected(text, is_inside=is_inside)
