"""Questions that a model makes of passages: only what the passage bears out is kept."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import document_kit as kit
from baremetalrt.documents.splitting import SplitConfig
from baremetalrt.documents.verdicts import GatherConfig
from baremetalrt.learning import asking
from baremetalrt.learning.corpora import Corpus, gather_corpus
from baremetalrt.learning.questions import (
    Pair,
    QuestionConfig,
    key_of,
    likelihood_gains,
    make_pairs,
    split_sentences,
    why_not,
)
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.store import StoredModel, default_model, find_model

# About something else than the examples that the model is shown.
FIRST, _, LAST = SENTENCES = (
    "The bridge over the Tarn was built of granite in 1768 by masons from Aveyron.",
    "It has seven arches and stood through the flood of 1930.",
    "The first toll for crossing it was a bundle of hay, which the miller collected.",
)
PASSAGE = " ".join(SENTENCES)
# A seed with which asking is interrupted at the fourth passage.
INTERRUPTED = 77


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


@pytest.mark.slow
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


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Eight passages, each with sentences of its own."""
    for number in range(8):
        text = PASSAGE.replace("Tarn", f"Tarn{number}").replace("1768", f"17{number}8")
        kit.write(tmp_path / "docs", f"{number}.txt", text)
    config = GatherConfig(split=SplitConfig(fraction=0.0))
    return gather_corpus([tmp_path / "docs"], "bridges", config)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The passages that the model was asked about, as they come; every other one makes a pair."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    found: list[str] = []

    async def one(model: object, passage: str, origin: str, config: object) -> Pair | str:
        found.append(passage)
        if len(found) == 4 and INTERRUPTED in config.__dict__.values():
            raise KeyboardInterrupt
        if int(key_of(passage), 16) % 2:
            return "made up"
        return Pair(f"What of {key_of(passage)}?", "Two hundred workers.", origin)

    monkeypatch.setattr("baremetalrt.learning.questions.make_pair", one)
    return found


def test_each_passage_is_asked_about_once(asked: list[str], corpus: Corpus) -> None:
    """Interrupted in the middle, done again, with more of them, with none: the pairs are as if
    nothing had happened, and beside the texts."""
    texts = corpus.train_path.read_bytes()
    pairs = corpus.folder / "questions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        asking.add_questions(corpus, default_model(), 6, seed=INTERRUPTED)
    assert len(asked) == 4 and not pairs.exists()
    asked.clear()
    first = asking.add_questions(corpus, default_model(), 6, seed=INTERRUPTED)
    assert len(asked) == 3 and first.num_passages == 6
    lines = pairs.read_text().splitlines()
    assert len(lines) == first.num_kept == len(set(lines)) > 0
    asked.clear()
    assert asking.add_questions(corpus, default_model(), 6, seed=INTERRUPTED) == first
    assert not asked and pairs.read_text().splitlines() == lines
    asking.add_questions(corpus, default_model(), 8, seed=INTERRUPTED)
    assert len(asked) == 2 and pairs.read_text().splitlines()[: len(lines)] == lines
    asking.add_questions(corpus, default_model(), 0, seed=INTERRUPTED)
    assert not pairs.exists() and corpus.train_path.read_bytes() == texts
    example = json.loads(lines[0])
    assert example["messages"][1] == {"role": "assistant", "content": "Two hundred workers."}
    assert Path(example["origin"]).suffix == ".txt"


def test_a_line_that_was_being_written_is_asked_again(asked: list[str], corpus: Corpus) -> None:
    """Whatever a kill left of the last line, and lines that are none: the others count."""
    first = asking.add_questions(corpus, default_model(), 6)
    journal = corpus.folder / "asked.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4]) + b"{}\n" + lines[4][: len(lines[4]) // 2])
    asked.clear()
    assert asking.add_questions(corpus, default_model(), 6) == first
    assert len(asked) == 2
    asked.clear()
    assert asking.add_questions(corpus, default_model(), 6) == first and not asked


def test_another_model_is_asked_anew(
    asked: list[str], corpus: Corpus, talking_model: Path, tmp_path: Path
) -> None:
    """By what is in its file; under another name it is the same."""
    default = default_model()
    copy = StoredModel("copy", Path(shutil.copy(default.path, tmp_path)), is_default=False)
    other = StoredModel(default.name, talking_model, is_default=False)
    for model, count in ((default, 6), (copy, 0), (other, 6)):
        asked.clear()
        asking.add_questions(corpus, model, 6)
        assert len(asked) == count
