"""Asks about what was trained on and what was held out, before and after: what a run has taught in facts.

It is bounded: of each side as many questions as are asked for, made of at most twice as many passages.
Of each passage some 2,000 tokens are read, and 100 written; each answer has 64 at most.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.learning.asking import CONTEXT, Passage, some_passages
from baremetalrt.learning.judging import JUDGED_BY, is_right
from baremetalrt.node.events import ignore
from baremetalrt.node.local_model import open_local
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions, SampleOptions
from baremetalrt.tuning.config import TuneConfig, TuneProgress
from baremetalrt.tuning.examples import HELD_OUT, TRAIN, Example, read_lines, training_examples
from baremetalrt.tuning.report import Checked, Checks, Side
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.node.model import Model

_ANSWER_TOKENS: Final = 64
# Of how many passages one question is made, at most: not all are good for one.
_PASSAGES_PER_QUESTION: Final = 2
_WITH_PASSAGE: Final = "Answer with what this passage says.\n\n{passage}\n\nQuestion: {question}"
_Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What is asked: the turns before the expected answer. `passage`: where the answer stands, if that is
    known."""

    side: Side
    turns: tuple[dict[str, Any], ...]
    expected: str
    origin: str
    passage: str | None = None

    @property
    def text(self) -> str:
        return str(self.turns[-1]["content"])


def check(
    config: TuneConfig,
    folder: Path,
    stored: StoredModel,
    name: str,
    on_progress: Callable[[TuneProgress], None],
) -> Checks:
    """Asks the base, the model with the adapter `name`, and the base with the passage at hand.

    Conversations among the examples are asked as they are; of texts, the base makes the questions.
    Answers are greedy.

    Raises:
        UsageError, IntegrityError, CapacityError: the model cannot be opened; see `Node.load`.
    """

    def say(note: str) -> None:
        on_progress(TuneProgress(phase="asking", step=0, num_steps=0, note=note))

    sources = Sources(folder, config.num_checks, config.seed)
    if not sources:
        return Checks(
            checked=(), judged_by=JUDGED_BY, note="no text is long enough to be asked about"
        )
    checked = asyncio.run(_check(config, sources, stored, name, say))
    note = "" if checked else "the model found no question in the passages"
    return Checks(checked=checked, judged_by=JUDGED_BY, note=note)


class Sources:
    """What can be asked about: conversations, and passages of texts, of each side."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.conversations: dict[Side, list[Example]] = {
            "learned": self._some(training_examples(folder)),
            "held out": self._some(read_lines(folder / HELD_OUT)),
        }
        passages = count * _PASSAGES_PER_QUESTION
        self.passages: dict[Side, list[Passage]] = {
            "trained": some_passages(folder / TRAIN, passages, seed),
            "held out": some_passages(folder / HELD_OUT, passages, seed),
        }

    def _some(self, examples: Sequence[Example]) -> list[Example]:
        asked = [e for e in examples if _asks(e)]
        return random.Random(self.seed).sample(asked, min(self.count, len(asked)))

    def __len__(self) -> int:
        """How many questions there may be, at most."""
        sizes = [len(found) for found in self.conversations.values()]
        sizes += [len(found) for found in self.passages.values()]
        return sum(min(self.count, size) for size in sizes)

    def ready(self) -> Iterator[_Question]:
        """The questions that need not be made."""
        for side, examples in self.conversations.items():
            for example in examples:
                turns = example.messages
                last = max(i for i, m in enumerate(turns) if m["role"] == "assistant")
                yield _Question(
                    side=side,
                    turns=turns[:last],
                    expected=str(turns[last]["content"]),
                    origin=example.origin,
                )


def _asks(example: Example) -> bool:
    """Whether a conversation has a question of the user just before its last answer."""
    roles = [message["role"] for message in example.messages]
    if "assistant" not in roles:
        return False
    last = len(roles) - 1 - roles[::-1].index("assistant")
    return last > 0 and roles[last - 1] == "user"


async def _check(
    config: TuneConfig, sources: Sources, stored: StoredModel, name: str, say: _Say
) -> tuple[Checked, ...]:
    # Here and not above: the engine takes a while to import.
    from baremetalrt.node.adapter_shelf import AdapterChoice, AdapterShelf

    # What the tuning has just given back is not taken for copies of weights.
    options = ModelOptions(context=CONTEXT, num_threads=config.num_threads, repack=False)
    checked: list[Checked] = []
    async with open_local(Opening(stored), options, ignore) as model:
        tuned = await asyncio.to_thread(AdapterShelf().adapt, model, [AdapterChoice(name)])
        async for question in _questions(model, sources):
            say(f"question {len(checked) + 1} of {len(sources)} at most")
            try:
                checked.append(await _answered(model, tuned, question))
            except UsageError:
                continue  # a conversation that is longer than the context
    return tuple(checked)


async def _questions(model: "Model", sources: Sources) -> AsyncIterator[_Question]:
    from baremetalrt.learning.questions import Pair, QuestionConfig, make_pair

    for question in sources.ready():
        yield question
    for side, passages in sources.passages.items():
        num_made = 0
        for passage in passages:
            if num_made == sources.count:
                break
            config = QuestionConfig(seed=sources.seed)
            pair = await make_pair(model, passage.text, passage.origin, config)
            if isinstance(pair, Pair):
                num_made += 1
                yield _Question(
                    side=side,
                    turns=({"role": "user", "content": pair.question},),
                    expected=pair.answer,
                    origin=pair.origin,
                    passage=passage.text,
                )


async def _answered(model: "Model", tuned: "Model", question: _Question) -> Checked:
    before = await _answer(model, question.turns)
    after = await _answer(tuned, question.turns)
    answers = {"before": before, "after": after}
    if question.passage is not None:
        said = _WITH_PASSAGE.format(passage=question.passage, question=question.text)
        answers["with_passage"] = await _answer(model, ({"role": "user", "content": said},))
    return Checked(
        side=question.side,
        question=question.text,
        expected=question.expected,
        origin=question.origin,
        before=before,
        after=after,
        with_passage=answers.get("with_passage"),
        right={
            name: is_right(answer, question.expected, question.text)
            for name, answer in answers.items()
        },
    )


async def _answer(model: "Model", turns: Sequence[dict[str, Any]]) -> str:
    # Here and not above: it imports the engine.
    from baremetalrt.session.session import GenerationOptions

    options = GenerationOptions(sampling=SampleOptions(temperature=0.0), max_tokens=_ANSWER_TOKENS)
    prompt = await model.tokenize_chat(turns)
    return "".join(
        [token.text async for token in model.session(prompt, options).generate()]
    ).strip()
