"""From examples in a folder to an adapter in the store: what `bmrt learn` and `bmrt finetune` share."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.places import adapters_folder
from baremetalrt.documents.passages import split_passages
from baremetalrt.learning.corpora import Corpus
from baremetalrt.node.events import ignore
from baremetalrt.node.local_model import open_local
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.tuning.config import TuneConfig, TuneProgress
from baremetalrt.weights.adapters.store import complete_trained
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.learning.questions import Made
    from baremetalrt.tuning.report import Report

QUESTIONS: Final = "questions.json"
# A small model loses the thread of longer ones.
_PASSAGE_CHARS: Final = 900
_MIN_PASSAGE_CHARS: Final = 200
_CONTEXT: Final = 2048


class QuestionsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking a model for questions: how many are kept, why others are not, some of them."""

    num_passages: int
    num_kept: int
    left_out: dict[str, int]
    samples: list[dict[str, Any]]


def teach(
    config: TuneConfig,
    folder: Path,
    stored: StoredModel,
    name: str,
    on_progress: Callable[[TuneProgress], None],
) -> "Report":
    """Learns what is in `folder`; the adapter goes into the store as `name`.

    Raises:
        UsageError, IntegrityError, CapacityError: see `tune`.
    """
    from baremetalrt.tuning.tune import tune

    target = adapters_folder() / name
    report = tune(config, folder, stored.path, target, on_progress, base_name=stored.name)
    complete_trained(
        target, GGUFFile.open(stored.path), base_name=stored.name, privacy=report.privacy
    )
    return report


def add_questions(
    corpus: Corpus,
    stored: StoredModel,
    count: int,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> QuestionsReport:
    """Adds questions and answers about `count` passages to what is trained on, once.

    Raises:
        UsageError, IntegrityError, CapacityError: the model cannot be loaded; see `Node.load`.
    """
    done = corpus.folder / QUESTIONS
    if done.exists():
        return msgspec.json.decode(done.read_bytes(), type=QuestionsReport)
    passages = list(_passages(corpus.train_path))
    random.Random(seed).shuffle(passages)
    made = asyncio.run(_ask(stored, passages[:count], seed, on_progress))
    report = QuestionsReport(
        num_passages=min(count, len(passages)),
        num_kept=len(made.pairs),
        left_out=made.left_out,
        samples=[msgspec.to_builtins(pair) for pair in made.pairs[:3]],
    )
    lines = "".join(
        json.dumps(pair.as_example(), ensure_ascii=False) + "\n" for pair in made.pairs
    ).encode("utf-8", "replace")
    with disk_errors():
        write_durably(corpus.train_path, corpus.train_path.read_bytes() + lines)
        write_durably(done, msgspec.json.encode(report))
        for path in (corpus.train_path, done):
            path.chmod(0o600)
    return report


def _passages(path: Path) -> Iterator[tuple[str, str]]:
    """Passages of the texts that are trained on, and where each is from."""
    with path.open("rb") as lines:
        for line in lines:
            example = msgspec.json.decode(line)
            for passage in split_passages(example.get("text", ""), _PASSAGE_CHARS):
                if len(passage) >= _MIN_PASSAGE_CHARS:
                    yield passage.strip(), example.get("origin", "")


async def _ask(
    stored: StoredModel,
    passages: list[tuple[str, str]],
    seed: int,
    on_progress: Callable[[int, int], None],
) -> "Made":
    from baremetalrt.learning.questions import QuestionConfig, make_pairs

    if not passages:
        raise UsageError("no passage is long enough to be asked about", code="learn.questions")
    async with open_local(Opening(stored), ModelOptions(context=_CONTEXT), ignore) as model:
        return await make_pairs(model, passages, QuestionConfig(seed=seed), on_progress)
