"""What happens while documents and examples become an adapter, for whoever shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from baremetalrt.documents.gathering import GatherProgress as GatherProgress
from baremetalrt.learning.corpora import Corpus
from baremetalrt.tuning.config import TuneProgress as TuneProgress

if TYPE_CHECKING:
    from baremetalrt.learning.asking import QuestionsReport


@dataclass(frozen=True)
class AskedAbout:
    """Of so many passages the model was asked for a question."""

    done: int
    total: int


@dataclass(frozen=True)
class Gathered:
    """The documents are read: the corpus that came of them."""

    corpus: Corpus


@dataclass(frozen=True)
class QuestionsMade:
    """The model has been asked about all passages: what came of it."""

    report: "QuestionsReport"


Event = GatherProgress | Gathered | AskedAbout | QuestionsMade | TuneProgress
OnEvent = Callable[[Event], None]
