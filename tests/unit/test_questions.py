"""Questions that a model makes of passages: only what the passage bears out is kept."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.documents.gathering import Summary
from baremetalrt.serve import teaching
from baremetalrt.serve.learning import Corpus
from baremetalrt.serve.node import Node, NodeConfig
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.questions import Made, Pair, QuestionConfig, make_pairs, why_not
from baremetalrt.weights.store import default_model, find_model

PASSAGE = (
    "The harbour at Vellmar was dug in 1874 by two hundred workers from the quarry. It took nine years "
    "and cost eleven lives. The first ship to enter it was the Adelheid, which carried timber from Riga."
)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Who dug the harbour at Vellmar?", "Two hundred workers from the quarry dug it.", ""),
        ("The harbour at Vellmar.", "Workers from the quarry.", "no question"),
        ("Who dug the harbour?", "Who dug the harbour?", "no answer"),
        ("What is photosynthesis about?", "The harbour was dug.", "about something else"),
        ("Who dug the harbour?", "Napoleon ordered prisoners to excavate it.", "made up"),
        ("Who dug the harbour?", "He did so.", "made up"),
    ],
)
def test_what_the_passage_does_not_say_is_left_out(question: str, answer: str, reason: str) -> None:
    assert why_not(Pair(question, answer, "x"), PASSAGE, QuestionConfig()) == reason


@given(st.lists(st.sampled_from(PASSAGE.split()), min_size=1, max_size=20))
def test_an_answer_in_the_words_of_the_passage_is_never_made_up(words: list[str]) -> None:
    """Unless none of its words is long enough to tell."""
    pair = Pair("Who dug the harbour?", " ".join(words), "x")
    is_telling = any(len(word.strip(".,")) > 3 for word in words)
    assert why_not(pair, PASSAGE, QuestionConfig()) == ("" if is_telling else "made up")


def test_a_model_asks_and_what_is_kept_is_sound() -> None:
    """Each passage ends as a pair or as a reason."""

    async def ask() -> Made:
        node = Node(NodeConfig(context=1024))
        try:
            model = node.load(Opening(find_model(None)))
            return await make_pairs(model, [(PASSAGE, "a"), (PASSAGE, "b")], QuestionConfig())
        finally:
            node.close()

    made = asyncio.run(ask())
    assert len(made.pairs) + sum(made.left_out.values()) == 2
    for pair in made.pairs:
        assert not why_not(pair, PASSAGE, QuestionConfig()) and pair.question.endswith("?")


def test_questions_are_added_once_and_beside_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs become conversations after the texts; a second time changes nothing."""
    line = json.dumps({"text": PASSAGE * 2, "origin": "harbour.txt"}) + "\n"
    (tmp_path / "train.jsonl").write_text(line)
    summary = msgspec.convert(
        {
            name: {} if name in ("documents", "unread") else "x" if name == "digest" else 0
            for name in Summary.__struct_fields__
        },
        Summary,
    )
    corpus = Corpus(name="x", folder=tmp_path, summary=summary)
    asked: list[int] = []

    async def two_pairs(model: object, passages: list[tuple[str, str]], *_: object) -> Made:
        asked.append(len(passages))
        pairs = [Pair("Who dug the harbour?", "Two hundred workers.", passages[0][1])]
        return Made(pairs, {"made up": len(passages) - 1})

    monkeypatch.setattr("baremetalrt.serve.questions.make_pairs", two_pairs)
    first = teaching.add_questions(corpus, default_model(), 5)
    again = teaching.add_questions(corpus, default_model(), 5)
    assert first == again and len(asked) == 1 and first.num_kept == 1
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    assert lines[0] + "\n" == line and len(lines) == 2
    assert json.loads(lines[1])["messages"][1] == {
        "role": "assistant",
        "content": "Two hundred workers.",
    }
    assert json.loads(lines[1])["origin"] == "harbour.txt"
