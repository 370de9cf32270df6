"""What a run did to a model: its text, other text, what it can recite, and what it can answer."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec

from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.tuning.curves import draw

NAME: Final = "report.json"
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


# Of questions that were learned from as such, of passages that were trained on, of what was held out.
Side = Literal["learned", "trained", "held out"]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A question about a text, and the answers: of the base, of the tuned model, and of the base with
    the passage at hand (none where the example is no passage). `right`: which say what is expected.
    """

    side: Side
    question: str
    expected: str
    origin: str
    before: str
    after: str
    with_passage: str | None
    right: dict[str, bool]


@dataclass(frozen=True, kw_only=True)
class Checks:
    """All questions that were asked, and how the answers were judged. `note`: why there are no more."""

    checked: tuple[Checked, ...]
    judged_by: str
    note: str = ""

    def num_right(self, side: Side, answer: str) -> tuple[int, int]:
        """Of how many questions on a side so many got that answer right."""
        found = [c.right[answer] for c in self.checked if c.side == side and answer in c.right]
        return sum(found), len(found)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The end of a run. Perplexities are per token; memorization counts spans of 50 tokens.

    Of held-out text there are figures where there is such text. `kept`: which step, and why that one.
    """

    steps: int
    best_step: int
    kept_step: int
    kept: str
    train_tokens: int
    tokens_per_s: float
    held_out_perplexity: Change | None
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
    checks: Checks | None = None

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
        if self.held_out_perplexity and self.held_out_perplexity.relative >= 0:
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

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The report that was saved; None where there is none that can be read."""
        try:
            return msgspec.json.decode((folder / NAME).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None

    def save(self, folder: Path) -> Path:
        path = folder / NAME
        with disk_errors():
            text = json.dumps(self.as_json(), indent=2, ensure_ascii=False)
            write_durably(path, text.encode("utf-8", "replace"))
        return path
