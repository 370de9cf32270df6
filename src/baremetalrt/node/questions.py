"""Questions with answers that are known: files of them, and whether a reply is right. Pure.

A file has one JSON object in each line: `question` with `choices` and the `answer`, its number from 0 or
the choice itself; or `question` with the `answer` alone, a text or several of which any will do.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from baremetalrt.core.errors import UsageError

_MAX_QUESTIONS: Final = 100_000
_MAX_CHOICES: Final = 100


@dataclass(frozen=True)
class Question:
    """`answers`: any of them is right; of a question with `choices`, one of these."""

    text: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()

    @property
    def right_choice(self) -> int:
        return self.choices.index(self.answers[0])


def read_questions(text: str, where: str) -> list[Question]:
    """The questions of a file; raises `UsageError`, with the line, where it is none."""
    questions = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            questions.append(_question(json.loads(line)))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"{where}, line {number}: no question with its answer: {why}",
                code="eval.questions",
                parameter="questions",
                hint='such as {"question": "…", "choices": ["…", "…"], "answer": 0}',
            ) from error
        if len(questions) > _MAX_QUESTIONS:
            raise UsageError(
                f"{where} has more than {_MAX_QUESTIONS:,} questions", code="eval.questions"
            )
    if not questions:
        raise UsageError(f"{where} has no questions", code="eval.questions", parameter="questions")
    return questions


def _question(said: Any) -> Question:
    if not isinstance(said, dict):
        raise TypeError("it is no JSON object")
    text, answer, choices = said["question"], said["answer"], said.get("choices")
    if not isinstance(text, str) or not text.strip():
        raise TypeError("the question is no text")
    if choices is None:
        answers = answer if isinstance(answer, list) else [answer]
        # Numbers are answers, too.
        answers = [str(one) if isinstance(one, int | float) else one for one in answers]
        if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
            raise TypeError("the answer is no text")
        return Question(text, tuple(answers))
    if not isinstance(choices, list) or not 2 <= len(choices) <= _MAX_CHOICES:
        raise TypeError(f"there are not 2 to {_MAX_CHOICES} choices")
    if not all(isinstance(one, str) and one for one in choices) or len(set(choices)) < len(choices):
        raise TypeError("choices are texts that differ")
    if isinstance(answer, bool) or not isinstance(answer, int | str):
        raise TypeError("the answer is neither a number nor a choice")
    if isinstance(answer, int) and not 0 <= answer < len(choices):
        raise IndexError(f"there is no choice {answer}")
    right = choices[answer] if isinstance(answer, int) else answer
    if right not in choices:
        raise ValueError("the answer is none of the choices")
    return Question(text, (right,), tuple(choices))


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply is one of the answers, whatever its case, marks and articles."""
    return normalized(reply) in {normalized(one) for one in answers}


def has_answer(reply: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in a reply, as whole words."""
    words = f" {normalized(reply)} "
    return any(f" {normalized(one)} " in words for one in answers)


def normalized(text: str) -> str:
    """Small letters and digits, words apart by one blank, without articles."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w]+", " ", folded).split()
    return " ".join(word for word in words if word not in ("a", "an", "the")) or folded.strip()
