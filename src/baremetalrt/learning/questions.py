"""Questions and answers about passages, made by the model that is to learn them.

What a small model says of a text is often wrong, so it is not asked for answers. It picks a sentence of
the passage and writes the question that the sentence answers. The answer is then whichever sentence of
the passage that question makes likelier, by the model's own probabilities and without the passage in
sight; questions that make none of them clearly likelier are left out.
"""

import json
import re
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np

from baremetalrt.documents.passages import split_sentences
from baremetalrt.node.model import Model
from baremetalrt.session.grammar import from_json_schema
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.scoring import score
from baremetalrt.session.session import GenerationOptions

_INSTRUCTION: Final = (
    "Choose one sentence of the passage that states a fact. Then write the question that it answers, "
    "naming what it is about. Reply with JSON.\n\nPassage:\n"
)
# Passage, one of its sentences, a question. A small model follows examples, and hardly instructions.
_EXAMPLES: Final = (
    (
        (
            "The harbour at Vellmar was dug in 1874 by two hundred workers from the quarry. It took nine "
            "years. The first ship to enter it was the Adelheid, which carried timber from Riga."
        ),
        "The harbour at Vellmar was dug in 1874 by two hundred workers from the quarry.",
        "When was the harbour at Vellmar dug, and by whom?",
    ),
    (
        (
            "In spring the keeper of Brenna climbed 211 steps each evening. His lamp burnt rapeseed oil. "
            "He was paid in coffee and salt, because the road was closed by snow until May."
        ),
        "He was paid in coffee and salt, because the road was closed by snow until May.",
        "Why was the keeper of Brenna paid in coffee and salt?",
    ),
)
# What stands before a sentence when its own likelihood is asked for.
_NO_QUESTION: Final = "Tell me something."
_QUESTION: Final = {"type": "string", "pattern": '^[^\\s?"][^?"]{9,}[?]$'}
_MAX_QUESTION_CHARS: Final = 160
_MAX_TOKENS: Final = 256
_WORD: Final = re.compile(r"[^\W_]{2,}")


class Pair(msgspec.Struct, frozen=True):
    """A question and its answer, and the document that they are about."""

    question: str
    answer: str
    origin: str

    def as_example(self) -> dict[str, object]:
        """A line of `train.jsonl`."""
        turns = [("user", self.question), ("assistant", self.answer)]
        messages = [{"role": role, "content": content} for role, content in turns]
        return {"messages": messages, "origin": self.origin}


@dataclass(frozen=True, kw_only=True)
class QuestionConfig:
    """Which pairs are kept.

    `min_gain`: by how many nats per token the question must raise the likelihood of its answer.
    `min_new_words`: how many words, besides its first one, the answer must have that the question does
    not: "in 1903" is two.
    """

    min_gain: float = 0.5
    min_new_words: int = 2
    seed: int = 0


@dataclass
class Made:
    """How it went: pairs that are kept, and how many were not, by reason."""

    pairs: list[Pair] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


async def make_pairs(
    model: Model | None,
    passages: Sequence[tuple[str, str]],
    config: QuestionConfig,
    known: MutableMapping[str, "Pair | str"] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """One pair for each passage (text, origin), where a sound one comes of it.

    What came of a passage is put into `known`, by `key_of` it; what is there is not asked for again. The
    model is needed for the others.
    """
    known = {} if known is None else known
    made = Made()
    seen: set[str] = set()
    for number, (passage, origin) in enumerate(passages):
        key = key_of(passage)
        if key not in known:
            assert model is not None
            known[key] = await make_pair(model, passage, origin, config)
        found = known[key]
        if isinstance(found, Pair) and found.question in seen:
            found = "repeated"
        if isinstance(found, Pair):
            seen.add(found.question)
            made.pairs.append(found)
        else:
            made.left_out[found] = made.left_out.get(found, 0) + 1
        on_progress(number + 1, len(passages))
    return made


def key_of(passage: str) -> str:
    """What names a passage among those that were asked about."""
    return blake2b(passage.encode("utf-8", "replace"), digest_size=16).hexdigest()


async def make_pair(model: Model, passage: str, origin: str, config: QuestionConfig) -> Pair | str:
    """A pair, or why there is none. The same passage and seed give the same."""
    sentences = split_sentences(passage)
    if len(sentences) < 2:
        return "too few sentences"
    # Of the passage's own: it does not matter which others are asked about, and when.
    seed = (config.seed + int(key_of(passage)[:12], 16)) % (1 << 63)
    question = await _ask(model, passage, sentences, seed)
    if question is None:
        return "no question"
    gains = await likelihood_gains(model, question, sentences)
    best = int(np.argmax(gains))
    pair = Pair(question, sentences[best], origin)
    return why_not(pair, gains[best], config) or pair


def why_not(pair: Pair, gain: float, config: QuestionConfig) -> str:
    """Why a pair does not teach anything; empty if it may."""
    if len(pair.question) > _MAX_QUESTION_CHARS:
        return "a question too long"
    if not gain >= config.min_gain:
        return "about something else"
    # A question that repeats a sentence puts another word at its beginning.
    said = _words(pair.answer.partition(" ")[2] or pair.answer)
    if len(said - _words(pair.question)) < config.min_new_words:
        return "nothing new in the answer"
    return ""


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


async def _ask(model: Model, passage: str, sentences: list[str], seed: int) -> str | None:
    """A question about one of the sentences; none where the model finds no end."""
    messages = []
    for text, sentence, question in _EXAMPLES:
        reply = json.dumps({"answer": sentence, "question": question}, ensure_ascii=False)
        messages.append({"role": "user", "content": _INSTRUCTION + text})
        messages.append({"role": "assistant", "content": reply})
    messages.append({"role": "user", "content": _INSTRUCTION + passage})
    prompt = await model.tokenize_chat(messages)
    if model.context_limit - len(prompt) < _MAX_TOKENS:
        return None
    # The sentence comes first: it is what the question is then about.
    schema = {
        "type": "object",
        "properties": {"answer": {"enum": sentences}, "question": _QUESTION},
        "required": ["answer", "question"],
        "additionalProperties": False,
    }
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.5, top_p=0.9, seed=seed),
        max_tokens=_MAX_TOKENS,
        grammar=from_json_schema(schema),
    )
    text = "".join([token.text async for token in model.session(prompt, options).generate()])
    try:
        return msgspec.json.decode(text, type=dict[str, str])["question"].strip()
    except msgspec.DecodeError:
        return None


async def likelihood_gains(model: Model, question: str, sentences: Sequence[str]) -> list[float]:
    """By how many nats per token a question makes each sentence likelier."""
    asked = await model.tokenize_chat([{"role": "user", "content": question}])
    plain = await model.tokenize_chat([{"role": "user", "content": _NO_QUESTION}])
    gains = []
    for sentence in sentences:
        tokens = model.encode(sentence)
        with_it, without = [await score(model.route, p, tokens) for p in (asked, plain)]
        gains.append(with_it.per_token - without.per_token)
    return gains
