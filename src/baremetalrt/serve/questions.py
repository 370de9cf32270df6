"""Questions and answers about passages, made by the model that is to learn them.

What a small model makes up about a text is often wrong. So the answer must be made of the passage's own
words, and the question must be about it: what is not is left out, and the report says how much that was.
"""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from baremetalrt.serve.node import Model
from baremetalrt.session.grammar import from_json_schema
from baremetalrt.session.sampling import SamplingOptions
from baremetalrt.session.session import GenerationOptions

_INSTRUCTION: Final = (
    "Read the passage. Then write one question that it answers, and the answer, taken from the passage, "
    "in one sentence. Reply with JSON."
)
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        # A small model forgets the question mark.
        "question": {"type": "string", "pattern": '^[A-Z][^?"]{10,160}[?]$'},
        "answer": {"type": "string", "minLength": 12, "maxLength": 400},
    },
    "required": ["question", "answer"],
    "additionalProperties": False,
}
_WORD: Final = re.compile(r"[^\W_]{4,}")
_MAX_TOKENS: Final = 200


class Pair(msgspec.Struct, frozen=True):
    """A question and its answer, and the passage that they are about."""

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

    `min_own_words`: the share of an answer's words that must stand in the passage. `min_shared_words`:
    how many of the question's words must. Words of three letters and less do not count.
    """

    min_own_words: float = 0.8
    min_shared_words: int = 1
    seed: int = 0


@dataclass
class Made:
    """How it went: pairs that are kept, and how many were not, by reason."""

    pairs: list[Pair] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


async def make_pairs(
    model: Model,
    passages: Sequence[tuple[str, str]],
    config: QuestionConfig,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """One pair for each passage (text, origin), where a sound one comes of it."""
    made = Made()
    seen: set[str] = set()
    for number, (passage, origin) in enumerate(passages):
        reason = "no pair"
        async for question, answer in _ask(model, passage, config.seed + number):
            pair = Pair(question, answer, origin)
            reason = why_not(pair, passage, config) or ("repeated" if question in seen else "")
            if not reason:
                seen.add(question)
                made.pairs.append(pair)
        if reason:
            made.left_out[reason] = made.left_out.get(reason, 0) + 1
        on_progress(number + 1, len(passages))
    return made


def why_not(pair: Pair, passage: str, config: QuestionConfig) -> str:
    """Why a pair does not teach what the passage says; empty if it may."""
    if not pair.question.rstrip().endswith("?"):
        return "no question"
    if pair.answer.rstrip().endswith("?"):
        return "no answer"
    known = _words(passage)
    if len(_words(pair.question) & known) < config.min_shared_words:
        return "about something else"
    answer = _words(pair.answer)
    if not answer or len(answer & known) < config.min_own_words * len(answer):
        return "made up"
    return ""


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


async def _ask(model: Model, passage: str, seed: int) -> AsyncIterator[tuple[str, str]]:
    """What the model makes of a passage: one pair, or none where it runs out of room."""
    messages = [{"role": "user", "content": f"{_INSTRUCTION}\n\nPassage:\n{passage}"}]
    prompt = await model.tokenize_chat(messages)
    room = model.context_limit - len(prompt)
    if room < _MAX_TOKENS:
        return
    options = GenerationOptions(
        sampling=SamplingOptions(temperature=0.3, top_p=0.9, seed=seed),
        max_tokens=_MAX_TOKENS,
        grammar=from_json_schema(_SCHEMA),
    )
    text = "".join([token.text async for token in model.session(prompt, options).generate()])
    try:
        body = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError:
        return
    yield body["question"].strip(), body["answer"].strip()
