"""`bmrt learn`: the way of writing of private documents and mail, as an adapter of a model."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.learn_display import LearnDisplay, print_corpus, print_learned
from baremetalrt.cli.tuning_options import TuneConfig, tuning_options
from baremetalrt.core.errors import UsageError

if TYPE_CHECKING:
    from baremetalrt.learning.learn import Documents, Learned


@click.command("learn")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--into", "name", metavar="NAME", help="What the result is called.")
@click.option("--model", metavar="MODEL", shell_complete=options.complete_model)
@click.option("--dry-run", is_flag=True, help="Say what would be read and what not; keep nothing.")
@click.option("--gather-only", is_flag=True, help="Read the documents, and do not train yet.")
@click.option("--replace", is_flag=True, help="Replace what NAME learned before.")
@click.option(
    "--questions",
    type=click.IntRange(0, 100_000),
    default=0,
    metavar="N",
    help="Train on questions and answers, too, that the model makes of N passages. Good ones "
    "teach more facts than texts do, at the price of general knowledge.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0.0, 0.5),
    default=0.05,
    show_default=True,
    help="The part of the text that is not trained on, but measured with: short stretches from all over, "
    "2 kB or a fifth of little text. 0: none.",
)
@options.JSON
@tuning_options
def command(
    paths: tuple[Path, ...],
    name: str | None,
    model: str | None,
    dry_run: bool,
    gather_only: bool,
    replace: bool,
    questions: int,
    held_out: float,
    as_json: bool,
    tuning: TuneConfig,
) -> None:
    """Train a model on documents and mail, and keep the change as the adapter NAME.

    What it takes on is the way they are written: style, vocabulary, turns of phrase. It does not learn to
    tell what is in them: facts are asked with the passage at hand, as in `bmrt run "QUESTION" - <
    PASSAGE`. The report asks about passages before and after, and shows the answers.

    Reads below PATHS: text, Markdown, HTML, PDF, EPUB, RTF, mail (EML, mbox, Maildir), code, and what
    office programs write (DOCX, ODT, PPTX, ODP, XLSX, XLS, ODS). Nothing leaves this machine. What is
    derived is in one folder, which only you can read; `bmrt forget NAME` deletes it. What cannot be read
    is listed, with the reason.

    The same command goes on after an interruption, and says so when all is done. A file called `pause`
    in that folder makes it wait.
    """
    from baremetalrt.learning.learn import Documents, LearnRequest, learn

    documents = Documents(
        paths=paths,
        held_out=held_out,
        num_questions=questions,
        may_replace=replace,
        seed=tuning.seed,
    )
    if dry_run:
        _look(documents, model, as_json=as_json)
        return
    if name is None:
        raise UsageError(
            "the result needs a name",
            code="learn.no-name",
            parameter="name",
            hint="--into NAME, or --dry-run to look first",
        )
    request = LearnRequest(
        name=name, source=documents, model=model, tuning=None if gather_only else tuning
    )
    with LearnDisplay(is_silent=as_json) as display:
        learned = learn(request, display.on_event)
    if learned.report is not None:
        print_learned(learned, as_json=as_json)
    elif as_json:
        _print_gathered(learned)


def _look(documents: "Documents", model: str | None, *, as_json: bool) -> None:
    from baremetalrt.learning.learn import survey_documents

    with LearnDisplay() as display:
        found = survey_documents(documents, display.on_event, model=model)
    if as_json:
        about = {"dry_run": True, **found.summary.as_json(), "unread_items": found.unread}
        output.print_json(about)
        return
    print_corpus(found.summary, found.unread, is_kept=False)


def _print_gathered(learned: "Learned") -> None:
    corpus = learned.corpus
    assert corpus is not None
    output.print_json(
        {
            "name": corpus.name,
            "folder": str(corpus.folder),
            "is_new": corpus.is_new,
            **corpus.summary.as_json(),
            "unread_items": corpus.unread(),
        }
    )
