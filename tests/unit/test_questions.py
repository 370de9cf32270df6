"""Questions that a model makes of passages: only what the passage bears out is kept."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.documents.gathering import Summary
from baremetalrt.learning import teaching
from baremetalrt.learning.corpora import Corpus
from baremetalrt.learning.questions import (
    Made,
    Pair,
    QuestionConfig,
    likelihood_gains,
    make_pairs,
    split_sentences,
    why_not,
)
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.store import default_model, find_model

# About something else than the examples that the model is shown.
FIRST, _, LAST = SENTENCES = (
    "The bridge over the Tarn was built of granite in 1768 by masons from Aveyron.",
    "It has seven arches and stood through the flood of 1930.",
    "The first toll for crossing it was a bundle of hay, which the miller collected.",
)
PASSAGE = " ".join(SENTENCES)


@pytest.mark.parametrize(
    ("question", "answer", "gain", "reason"),
    [
        ("Who built the bridge?", FIRST, 1.2, ""),
        ("Who built the bridge?", FIRST, 0.2, "about something else"),
        ("Who built the bridge?", FIRST, float("nan"), "about something else"),
        ("When was the lighthouse built?", "The lighthouse was built in 1903.", 2.0, ""),
        ("What was it all about?", "This was it all about.", 2.0, "nothing new in the answer"),
        ("Who built the bridge" + " of granite" * 20 + "?", FIRST, 2.0, "a question too long"),
        (
            "Was the bridge over the Tarn built of granite in 1768 by masons?",
            FIRST.replace(" from Aveyron", ""),
            3.0,
            "nothing new in the answer",
        ),
    ],
)
def test_what_teaches_nothing_is_left_out(
    question: str, answer: str, gain: float, reason: str
) -> None:
    assert why_not(Pair(question, answer, "x"), gain, QuestionConfig()) == reason


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (PASSAGE, SENTENCES),
        ("Short. " + PASSAGE.replace(" The first", "\nThe first") + " " + FIRST, SENTENCES),
        (
            "该港口由二百名采石场工人于一八七四年在韦尔马尔挖掘而成,历时九年,共有十一人因此丧生,令人十分痛惜。"
            * 2,
            (
                "该港口由二百名采石场工人于一八七四年在韦尔马尔挖掘而成,历时九年,共有十一人因此丧生,令人十分痛惜。",
            ),
        ),
        ("word " * 200 + ".", ()),
        ("x = y.z\n" * 20, ()),
        ("", ()),
    ],
)
def test_sentences_are_found(text: str, sentences: tuple[str, ...]) -> None:
    """Over lines, each once, in scripts without spaces; neither fragments nor endless ones."""
    assert tuple(split_sentences(text)) == sentences


@given(st.text())
def test_any_text_has_sentences_or_not(text: str) -> None:
    flat = " ".join(text.split())
    assert all(sentence in flat for sentence in split_sentences(text))


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    node = Node(ModelOptions(context=2048))
    yield node.load(Opening(find_model(None)))
    node.close()


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who built the bridge over the Tarn?", FIRST),
        ("What was the first toll for crossing the bridge?", LAST),
    ],
)
def test_a_question_makes_its_answer_likelier(model: Model, question: str, answer: str) -> None:
    """More than other sentences of the passage; one about something else makes none much likelier."""
    gains = asyncio.run(likelihood_gains(model, question, SENTENCES))
    assert SENTENCES[gains.index(max(gains))] == answer
    assert max(gains) > QuestionConfig().min_gain
    others = asyncio.run(likelihood_gains(model, "What is a good recipe for soup?", SENTENCES))
    assert max(others) < QuestionConfig().min_gain


def test_a_model_asks_and_answers_are_the_words_of_the_passage(model: Model) -> None:
    """Each passage ends as a pair or as a reason; the same seed asks the same."""
    passages = [(PASSAGE, "a"), ("Nothing to ask.", "b"), (PASSAGE, "c")]
    made = asyncio.run(make_pairs(model, passages, QuestionConfig(seed=4)))
    assert len(made.pairs) + sum(made.left_out.values()) == 3
    assert made.pairs and made.left_out["too few sentences"] == 1
    for pair in made.pairs:
        assert pair.answer in SENTENCES and pair.question.endswith("?")
    assert made == asyncio.run(make_pairs(model, passages, QuestionConfig(seed=4)))


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

    monkeypatch.setattr("baremetalrt.learning.questions.make_pairs", two_pairs)
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
