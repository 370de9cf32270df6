"""How good a model is: its loss on a text, how far it is from another, which questions it answers."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import UsageError
from baremetalrt.node.answering import Answered, AnswerRequest, answer
from baremetalrt.node.estimates import Estimate, mean_of, share_of
from baremetalrt.node.model import Model
from baremetalrt.node.questions import Question, has_answer, is_right
from baremetalrt.session.comparing import Comparison, compare
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.scoring import Score, perplexity, score
from baremetalrt.session.session import GenerationOptions

_MAX_REPLY_TOKENS: Final = 64
_LEAST_TOKENS: Final = 2

# Hears how much of the work is done, from 0 to 1.
OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class TextFigures:
    """What a model makes of a text. `nats`: its loss for each token; the error treats tokens as
    independent, as llama.cpp's does. `compared`: with a reference on the same tokens.
    """

    nats: Estimate
    num_windows: int
    compared: "Distance | None" = None

    @property
    def perplexity(self) -> float:
        return perplexity(self.nats.mean)

    @property
    def perplexity_error(self) -> float:
        return self.perplexity * self.nats.error


@dataclass(frozen=True)
class Distance:
    """How far a model is from a reference: the divergence KL(reference || model) in nats, its 99th and
    99.9th percentile, how often both choose the same token, and how much greater its loss is."""

    kl: Estimate
    kl_percentiles: tuple[float, float]
    agreement: Estimate
    nats_more: Estimate


@dataclass(frozen=True)
class QuestionFigures:
    """Shares of questions that were answered right.

    Of choices: by the likelihood of the whole choice, and by that for each of its letters. Of questions
    without: the reply is the answer, or has it among its words.
    """

    by_likelihood: Estimate | None = None
    by_letter: Estimate | None = None
    exact: Estimate | None = None
    contained: Estimate | None = None
    replies: list[str] = field(default_factory=list)


async def evaluate_text(
    model: Model,
    text: str,
    window: int,
    on_progress: OnProgress,
    *,
    reference: Model | None = None,
) -> TextFigures:
    """Takes the text in windows, and scores the second half of each: the first is what it is read after.

    Source: llama.cpp's `perplexity`, whose figures these are.

    Raises:
        UsageError: the text is too short, or the reference has other tokens.
        CapacityError: no room in the cache.
    """
    tokens = model.tokenizer.encode_prompt(text)
    if reference is not None and reference.tokenizer.encode_prompt(text) != tokens:
        raise UsageError(
            "the two models take the text apart differently",
            code="eval.vocabulary",
            parameter="reference",
            hint="a model is compared with another precision of itself",
        )
    longest = min(window, model.context_limit, *((reference.context_limit,) if reference else ()))
    parts = list(windows_of(tokens, longest, model.tokenizer.beginning))
    if not parts:
        raise UsageError(
            f"the text has {len(tokens)} tokens: too few to score",
            code="eval.short",
            parameter="text",
        )
    found = []
    for number, (part, first) in enumerate(parts, 1):
        found.append(await _window(model, reference, part, first))
        on_progress(number / len(parts))
    losses_T = -np.concatenate([one.logprobs_T for one in found])
    compared = [one for one in found if isinstance(one, Comparison)]
    return TextFigures(
        mean_of(losses_T), len(parts), _distance(losses_T, compared) if compared else None
    )


async def _window(
    model: Model, reference: Model | None, part: list[int], first: int
) -> Score | Comparison:
    if reference is None:
        return await score(model.route, part[:first], part[first:], adapters=model.adapters)
    return await compare(model.route, reference.route, part, first=first, adapters=model.adapters)


def _distance(losses_T: NDArray[np.float64], found: Sequence[Comparison]) -> Distance:
    kl_T = np.concatenate([one.kl_T for one in found])
    theirs_T = -np.concatenate([one.reference_logprobs_T for one in found])
    return Distance(
        mean_of(kl_T),
        (float(np.percentile(kl_T, 99)), float(np.percentile(kl_T, 99.9))),
        share_of(np.concatenate([one.agrees_T for one in found]).tolist()),
        mean_of(losses_T - theirs_T),
    )


def windows_of(
    tokens: Sequence[int], window: int, beginning: Sequence[int]
) -> Iterator[tuple[list[int], int]]:
    """Windows one after another, and the first of each that is scored. Pure.

    Each begins as texts do, over its own first tokens; what is left at the end is dropped. A text that is
    shorter than one window is scored from its second token on.
    """
    if len(tokens) < window:
        if len(tokens) >= _LEAST_TOKENS:
            yield list(tokens), 1
        return
    for start in range(0, len(tokens) - window + 1, window):
        part = list(tokens[start : start + window])
        part[: len(beginning)] = beginning
        yield part, window // 2 + 1


async def evaluate_questions(
    model: Model, questions: Sequence[Question], on_progress: OnProgress
) -> QuestionFigures:
    """Asks all of them; replies are greedy, by the chat template where the model has one.

    Raises:
        UsageError: a question does not fit.
        CapacityError: no room in the cache.
    """
    likely, by_letter, exact, contained = [], [], [], []
    replies = []
    for number, question in enumerate(questions, 1):
        if question.choices:
            logprobs = [await _choice(model, question.text, one) for one in question.choices]
            letters = [max(1, len(one.encode())) for one in question.choices]
            likely.append(_best(logprobs) == question.right_choice)
            means = [value / count for value, count in zip(logprobs, letters, strict=True)]
            by_letter.append(_best(means) == question.right_choice)
        else:
            reply = await _reply(model, question.text)
            replies.append(reply)
            exact.append(is_right(reply, question.answers))
            contained.append(has_answer(reply, question.answers))
        on_progress(number / len(questions))
    return QuestionFigures(
        by_likelihood=share_of(likely) if likely else None,
        by_letter=share_of(by_letter) if by_letter else None,
        exact=share_of(exact) if exact else None,
        contained=share_of(contained) if contained else None,
        replies=replies,
    )


async def _choice(model: Model, question: str, choice: str) -> float:
    """How likely a choice is behind its question, in nats."""
    gap = "" if question[-1:].isspace() or choice[:1].isspace() else " "
    before, whole = model.encode(question), model.encode(f"{question}{gap}{choice}")
    # Where both come together, tokens may join.
    shared = next(
        (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
        min(len(before), len(whole) - 1),
    )
    if len(whole) > model.context_limit:
        raise UsageError(
            f"a question with its choice has {len(whole)} tokens, and the context is "
            f"{model.context_limit}",
            code="context.exceeded",
            parameter="questions",
        )
    found = await score(
        model.route, whole[: max(1, shared)], whole[max(1, shared) :], adapters=model.adapters
    )
    return found.log_likelihood


async def _reply(model: Model, question: str) -> str:
    options = GenerationOptions(
        max_tokens=_MAX_REPLY_TOKENS, sampling=SampleOptions(temperature=0.0)
    )
    asked = (
        AnswerRequest(options=options, raw=question)
        if model.is_base
        else AnswerRequest(options=options, messages=[{"role": "user", "content": question}])
    )
    text = ""
    async for said in answer(model, asked):
        if isinstance(said, Answered):
            text = said.text
    return text.strip()


def _best(values: Sequence[float]) -> int:
    """The first of the greatest; what is no number is the least."""
    known = [-math.inf if math.isnan(value) else value for value in values]
    return known.index(max(known))
