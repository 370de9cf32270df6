"""From documents or examples to an adapter in the store: gather, ask, teach."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from baremetalrt.documents.splitting import SplitConfig
from baremetalrt.documents.verdicts import GatherConfig
from baremetalrt.learning.corpora import Corpus, Survey, corpus_folder, gather_corpus, survey
from baremetalrt.learning.events import AskedAbout, Gathered, OnEvent, QuestionsMade
from baremetalrt.learning.teaching import add_questions, teach
from baremetalrt.node.naming import find_whole_model
from baremetalrt.tuning.config import TuneConfig
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.tuning.report import Report as Report


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What is read: everything below `paths`. `held_out` is the part that is only judged by.

    `num_questions`: of so many passages the model makes questions, to learn from, too. `may_replace`:
    what the name has learned before may go.
    """

    paths: Sequence[Path]
    held_out: float = 0.05
    num_questions: int = 0
    may_replace: bool = False
    seed: int = 0

    @property
    def gathering(self) -> GatherConfig:
        return GatherConfig(split=SplitConfig(fraction=self.held_out, seed=self.seed))


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Ready-made examples, in files of JSON lines or text."""

    files: Sequence[Path]


@dataclass(frozen=True, kw_only=True)
class LearnRequest:
    """What is learned, by which model, and what the adapter is called.

    Without `tuning`, documents are gathered and nothing is taught yet.
    """

    name: str
    source: Documents | Examples
    model: str | None = None
    tuning: TuneConfig | None = None


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What came of it. `report` and `model` are None where nothing was taught."""

    name: str
    folder: Path
    corpus: Corpus | None = None
    model: str | None = None
    report: "Report | None" = None


def survey_documents(documents: Documents, on_event: OnEvent) -> Survey:
    """What would be read, and what not and why. Nothing stays on disk.

    Raises:
        UsageError: a path is missing, or what reads documents is not installed.
    """
    return survey(documents.paths, documents.gathering, on_event)


def learn(request: LearnRequest, on_event: OnEvent) -> Learned:
    """Does what is asked for; blocks for long. After a kill, the same request goes on where it was.

    Raises:
        UsageError: names, documents, examples or settings cannot be used.
        IntegrityError: the model's file is damaged.
        CapacityError: memory or disk do not suffice.
    """
    folder = corpus_folder(request.name)
    stored = _prepared(request)
    if isinstance(request.source, Examples):
        assert stored is not None and request.tuning is not None
        _take_examples(folder, request.source, request.tuning.seed)
        corpus = None
    else:
        corpus = _gather(request.name, request.source, on_event)
        if stored is not None and request.source.num_questions:
            _ask(corpus, stored, request.source, on_event)
    if stored is None or request.tuning is None:
        return Learned(name=request.name, folder=folder, corpus=corpus)
    report = teach(request.tuning, folder, stored, request.name, on_event)
    return Learned(
        name=request.name, folder=folder, corpus=corpus, model=stored.name, report=report
    )


def _prepared(request: LearnRequest) -> StoredModel | None:
    """The model, if it is to be taught; what is missing for that is said before an hour of reading."""
    if request.tuning is None:
        return None
    from baremetalrt.tuning.requirements import prepare

    prepare()
    return find_whole_model(request.model)


def _take_examples(folder: Path, source: Examples, seed: int) -> None:
    from baremetalrt.tuning.examples import read_files, split, write_corpus

    train, held_out = split(read_files(source.files), seed)
    write_corpus(folder, train, held_out)


def _gather(name: str, source: Documents, on_event: OnEvent) -> Corpus:
    corpus = gather_corpus(
        source.paths,
        name,
        source.gathering,
        may_replace=source.may_replace,
        on_progress=on_event,
    )
    on_event(Gathered(corpus))
    return corpus


def _ask(corpus: Corpus, stored: StoredModel, source: Documents, on_event: OnEvent) -> None:
    report = add_questions(
        corpus,
        stored,
        source.num_questions,
        seed=source.seed,
        on_progress=lambda done, total: on_event(AskedAbout(done, total)),
    )
    on_event(QuestionsMade(report))
