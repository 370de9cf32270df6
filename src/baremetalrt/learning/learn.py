"""From documents or examples to an adapter in the store: gather, ask, teach."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from baremetalrt.documents.splitting import SplitConfig
from baremetalrt.documents.verdicts import GatherConfig
from baremetalrt.learning.corpora import Corpus, Survey, corpus_folder, gather_corpus, survey
from baremetalrt.learning.events import AskedAbout, Gathered, OnEvent, QuestionsMade
from baremetalrt.learning.holding import held
from baremetalrt.node.naming import find_whole_model
from baremetalrt.tuning.config import TuneConfig
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.tuning.report import Checked as Checked
    from baremetalrt.tuning.report import Checks as Checks
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
    """Ready-made examples, in files of JSON lines or text; the rest is as for documents."""

    files: Sequence[Path]
    held_out: float = 0.1
    may_replace: bool = False
    seed: int = 0


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
    """What came of it. `report` and `model` are None where nothing was taught. `is_new`: it was not
    learned before, by the same request or one like it."""

    name: str
    folder: Path
    corpus: Corpus | None = None
    model: str | None = None
    report: "Report | None" = None
    is_new: bool = True


def survey_documents(
    documents: Documents, on_event: OnEvent, *, model: str | None = None
) -> Survey:
    """What would be read, and what not and why. Nothing stays on disk.

    Raises:
        UsageError: a path is missing, there is no such model, or what reads documents is not installed.
    """
    if model is not None:
        find_whole_model(model)
    return survey(documents.paths, documents.gathering, on_event)


def learn(request: LearnRequest, on_event: OnEvent) -> Learned:
    """Does what is asked for; blocks for long. After a kill, the same request goes on where it was; when
    it is done, the same request finds that it is.

    Raises:
        UsageError: names, documents, examples or settings cannot be used, or another process learns
            under that name.
        IntegrityError: the model's file is damaged.
        CapacityError: memory or disk do not suffice.
    """
    folder = corpus_folder(request.name)
    stored = _prepared(request)
    with held(request.name):
        return _learn(request, folder, stored, on_event)


def _learn(
    request: LearnRequest, folder: Path, stored: StoredModel | None, on_event: OnEvent
) -> Learned:
    source, tuning = request.source, request.tuning
    if stored is None or tuning is None:
        return Learned(
            name=request.name, folder=folder, corpus=_gather(request.name, source, on_event)
        )
    from baremetalrt.learning.teaching import require_free, teach

    require_free(request.name, folder, may_replace=source.may_replace)
    corpus = _gather(request.name, source, on_event)
    if isinstance(source, Documents):
        _ask(corpus, stored, source, on_event)
    report, is_new = teach(
        tuning, folder, stored, request.name, on_event, may_replace=source.may_replace
    )
    return Learned(
        name=request.name,
        folder=folder,
        corpus=corpus,
        model=stored.name,
        report=report,
        is_new=is_new,
    )


def _prepared(request: LearnRequest) -> StoredModel | None:
    """The model, if it is to be taught; what is wrong with it is said before an hour of reading."""
    if request.tuning is None:
        # Nothing is taught yet: but a wrong name is wrong now.
        if request.model is not None:
            find_whole_model(request.model)
        return None
    from baremetalrt.tuning.preflight import check_request
    from baremetalrt.tuning.requirements import prepare

    prepare()
    stored = find_whole_model(request.model)
    check_request(request.tuning, stored.path)
    return stored


def _gather(name: str, source: Documents | Examples, on_event: OnEvent) -> Corpus:
    if isinstance(source, Examples):
        from baremetalrt.learning.ready_made import keep_examples

        split = SplitConfig(fraction=source.held_out, seed=source.seed)
        corpus = keep_examples(source.files, name, split, may_replace=source.may_replace)
    else:
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
    from baremetalrt.learning.asking import add_questions

    report = add_questions(
        corpus,
        stored,
        source.num_questions,
        seed=source.seed,
        on_progress=lambda done, total: on_event(AskedAbout(done, total)),
    )
    if source.num_questions:
        on_event(QuestionsMade(report))
