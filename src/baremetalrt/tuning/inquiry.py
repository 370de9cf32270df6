"""What is asked of a model before and after a run, to compare both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from baremetalrt.session.scoring import perplexity
from baremetalrt.tuning.checkpoints import History
from baremetalrt.tuning.evaluation import (
    Memorization,
    answers,
    held_out_loss,
    memorization,
    some_rows,
)
from baremetalrt.tuning.keeping import Keeping
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.report import Change, Report, Sample
from baremetalrt.tuning.tokenized import Row

# Enough to tell, on large corpora too.
_MAX_TOKENS: Final = 8192


def general_text() -> str:
    """The text on which forgetting is measured: of many subjects, written for this purpose."""
    return (resources.files("baremetalrt.tuning") / "general.txt").read_text("utf-8")


@dataclass(frozen=True, kw_only=True)
class Inquiry:
    """What is asked of both models. `prompts` are token ids and the text they stand for."""

    train: Sequence[Row]
    held_out: Sequence[Row]
    general: Sequence[Row]
    prompts: Sequence[tuple[list[int], str]]
    sample_tokens: int
    ends: frozenset[int]
    decode: Callable[[list[int]], str]
    micro_rows: int

    @property
    def num_tokens(self) -> int:
        """How many tokens one model is given and says, all in all."""
        judged = [
            some_rows(rows, _MAX_TOKENS) for rows in (self.train, self.held_out, self.held_out)
        ]
        read = sum(len(row.ids) for rows in (*judged, self.general) for row in rows)
        return read + len(self.prompts) * self.sample_tokens


@dataclass(frozen=True)
class Findings:
    """The answers of one model."""

    held_out: float | None
    general: float
    train_recited: Memorization
    held_out_recited: Memorization
    answers: tuple[str, ...]


def inquire(model: TunableModel, inquiry: Inquiry, on_part: Callable[[str], None]) -> Findings:
    """Asks the model as it stands."""
    q = inquiry
    on_part("held-out text")
    judged = some_rows(q.held_out, _MAX_TOKENS)
    held_out = held_out_loss(model, judged, q.micro_rows).per_token if judged else None
    on_part("general text")
    general = held_out_loss(model, q.general, q.micro_rows).per_token
    on_part("what is known by heart")
    train_recited = memorization(model, some_rows(q.train, _MAX_TOKENS), q.micro_rows)
    held_out_recited = memorization(model, judged, q.micro_rows)
    on_part("sample answers")
    said = answers(model, [p for p, _ in q.prompts], q.sample_tokens, q.ends)
    shown = tuple(q.decode(ids) for ids in said)
    return Findings(held_out, general, train_recited, held_out_recited, shown)


def compare(
    before: Findings,
    after: Findings,
    history: History,
    kept: Keeping,
    prompts: Sequence[tuple[list[int], str]],
    settings: dict[str, Any],
    privacy: str,
) -> Report:
    """Both models side by side."""

    def both(a: float, b: float) -> Change:
        return Change(perplexity(a), perplexity(b))

    held_out = None
    if before.held_out is not None and after.held_out is not None:
        held_out = both(before.held_out, after.held_out)

    def recited(a: Memorization, b: Memorization) -> Change:
        return Change(a.num_verbatim, b.num_verbatim)

    return Report(
        steps=history.step,
        best_step=history.best_step,
        kept_step=history.best_step if kept.keeps_best else history.step,
        kept=kept.reason,
        train_tokens=history.tokens,
        tokens_per_s=history.tokens / history.seconds if history.seconds else 0.0,
        held_out_perplexity=held_out,
        general_perplexity=both(before.general, after.general),
        train_spans=after.train_recited.num_spans,
        train_recited=recited(before.train_recited, after.train_recited),
        held_out_spans=after.held_out_recited.num_spans,
        held_out_recited=recited(before.held_out_recited, after.held_out_recited),
        samples=tuple(
            Sample(text, a, b)
            for (_, text), a, b in zip(prompts, before.answers, after.answers, strict=True)
        ),
        losses=tuple(history.losses),
        held_out_losses=tuple(history.held_out),
        settings=settings,
        privacy=privacy,
    )
