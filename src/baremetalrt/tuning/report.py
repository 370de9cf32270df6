"""What a run did to a model: better at the held-out text, worse at others, and what it can recite."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.session.scoring import perplexity
from baremetalrt.tuning.checkpoints import History
from baremetalrt.tuning.curves import draw
from baremetalrt.tuning.evaluation import (
    Memorization,
    answers,
    held_out_loss,
    memorization,
    some_rows,
)
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.tokenized import Row

NAME: Final = "report.json"
# Enough to tell, on large corpora too.
_MAX_TOKENS: Final = 8192
NOT_PRIVATE: Final = "not differentially private"


@dataclass(frozen=True)
class Change:
    """A figure of the base model and of the tuned one."""

    before: float
    after: float

    @property
    def relative(self) -> float:
        return self.after / self.before - 1.0


@dataclass(frozen=True)
class Sample:
    """One prompt, and how each of both models goes on."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The end of a run. Perplexities are per token; memorization counts spans of 50 tokens."""

    steps: int
    best_step: int
    train_tokens: int
    tokens_per_s: float
    held_out_perplexity: Change
    general_perplexity: Change
    train_spans: int
    train_recited: Change
    held_out_spans: int
    held_out_recited: Change
    samples: tuple[Sample, ...]
    losses: tuple[tuple[int, float], ...]
    held_out_losses: tuple[tuple[int, float], ...]
    settings: dict[str, Any]
    privacy: str = NOT_PRIVATE

    @property
    def warnings(self) -> list[str]:
        found = []
        for name, spans, recited in (
            ("training", self.train_spans, self.train_recited),
            ("held-out", self.held_out_spans, self.held_out_recited),
        ):
            if recited.after > recited.before:
                found.append(
                    f"the model now recites {recited.after:.0f} of {spans} passages of the {name} text "
                    f"word for word ({recited.before:.0f} before): think twice before sharing the adapter"
                )
        if self.held_out_perplexity.after >= self.held_out_perplexity.before:
            found.append("nothing was learned that helps with the held-out text")
        if self.general_perplexity.relative > 0.02:
            found.append(
                f"perplexity on general text rose by {100 * self.general_perplexity.relative:.1f} %: "
                "the model forgot something; fewer epochs or a smaller rate forget less"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": self.warnings}

    def curves(self) -> str:
        """Losses by step, drawn with letters."""
        return draw(self.losses, self.held_out_losses)

    def save(self, folder: Path) -> Path:
        path = folder / NAME
        with disk_errors():
            text = json.dumps(self.as_json(), indent=2, ensure_ascii=False)
            write_durably(path, text.encode("utf-8", "replace"))
        return path


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


@dataclass(frozen=True)
class Findings:
    """The answers of one model."""

    held_out: float
    general: float
    train_recited: Memorization
    held_out_recited: Memorization
    answers: tuple[str, ...]


def inquire(model: TunableModel, inquiry: Inquiry, on_part: Callable[[str], None]) -> Findings:
    """Asks the model as it stands."""
    q = inquiry
    on_part("held-out text")
    judged = some_rows(q.held_out, _MAX_TOKENS)
    held_out = held_out_loss(model, judged, q.micro_rows).per_token
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
    prompts: Sequence[tuple[list[int], str]],
    settings: dict[str, Any],
    privacy: str,
) -> Report:
    """Both models side by side."""

    def both(a: float, b: float) -> Change:
        return Change(perplexity(a), perplexity(b))

    def recited(a: Memorization, b: Memorization) -> Change:
        return Change(a.num_verbatim, b.num_verbatim)

    return Report(
        steps=history.step,
        best_step=history.best_step,
        train_tokens=history.tokens,
        tokens_per_s=history.tokens / history.seconds if history.seconds else 0.0,
        held_out_perplexity=both(before.held_out, after.held_out),
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
