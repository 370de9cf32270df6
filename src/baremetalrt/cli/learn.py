"""`bmrt learn`: private documents and mail to an adapter of a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.finetune import learn, tune_config, tuning_options
from baremetalrt.cli.reading import describe
from baremetalrt.cli.status_line import StatusLine
from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes
from baremetalrt.serve.library import find_whole_model
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.documents.gathering import Progress, Summary
    from baremetalrt.documents.judging import GatherConfig
    from baremetalrt.serve.learning import Corpus

_SHOWN: int = 20


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
    help="Learn questions and answers, too, that the model makes of N passages.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0.0, 0.5),
    default=0.05,
    show_default=True,
    help="The part of the documents that is not trained on, but measured with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    **arguments: Any,
) -> None:
    """Teach a model what is in documents and mail, and keep what it learned as the adapter NAME.

    Reads below PATHS: text, Markdown, HTML, PDF, DOCX, EML, mbox, Maildir, code. Nothing leaves this
    machine. What is derived is in one folder, which only you can read; `bmrt forget NAME` deletes it.
    What cannot be read is listed, with the reason. Run the same command again after an interruption: it
    goes on where it was. A file called `pause` in that folder makes it wait.
    """
    from baremetalrt.serve.learning import gather_corpus, survey, unread_of

    config = _config(arguments["seed"], held_out)
    if dry_run:
        with _reading() as show:
            summary, unread = survey(paths, config, show)
        _report(summary, unread, as_json=as_json, extra={"dry_run": True})
        return
    if name is None:
        raise UsageError(
            "the result needs a name",
            code="learn.no-name",
            parameter="name",
            hint="--into NAME, or --dry-run to look first",
        )
    stored = None
    if not gather_only:
        # Before an hour of reading.
        from baremetalrt.tuning.requirements import prepare

        prepare()
        stored = find_whole_model(model)
    with _reading() as show:
        corpus = gather_corpus(paths, name, config, may_replace=replace, on_progress=show)
    extra = {"name": corpus.name, "folder": str(corpus.folder), "is_new": corpus.is_new}
    if stored is None or not as_json:
        _report(corpus.summary, list(unread_of(corpus.folder)), as_json=as_json, extra=extra)
    if not as_json:
        output.note(f"{'in' if corpus.is_new else 'as before, in'} {corpus.folder}")
    if stored is not None:
        if questions:
            _ask(corpus, stored, questions, arguments["seed"])
        learn(tune_config(arguments), corpus.folder, stored, name, as_json=as_json)


@contextmanager
def _reading() -> "Iterator[Callable[[Progress], None]]":
    with StatusLine(after_s=1.0) as line:

        def show(progress: "Progress") -> None:
            if line.is_due:
                line.show(describe(progress))

        yield show


def _ask(corpus: "Corpus", stored: StoredModel, count: int, seed: int) -> None:
    from baremetalrt.serve.teaching import add_questions

    with StatusLine(after_s=1.0) as line:
        report = add_questions(
            corpus,
            stored,
            count,
            seed=seed,
            on_progress=lambda done, total: line.update(f"asked about {done} of {total} passages"),
        )
    why = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
    output.note(
        f"questions: {report.num_kept} of {report.num_passages} kept" + (f"; {why}" if why else "")
    )
    for sample in report.samples:
        output.note(f"  {sample['question']} {sample['answer']}")


def _config(seed: int, held_out: float) -> "GatherConfig":
    from baremetalrt.documents.judging import GatherConfig
    from baremetalrt.documents.splitting import SplitConfig

    return GatherConfig(split=SplitConfig(fraction=held_out, seed=seed))


def _report(
    summary: "Summary", unread: list[dict[str, str]], *, as_json: bool, extra: dict[str, Any]
) -> None:
    if as_json:
        import msgspec

        output.print_json({**extra, **msgspec.to_builtins(summary), "unread_items": unread})
        return
    kinds = [(kind, count) for kind, count in summary.documents.items()]
    if kinds:
        output.print_table(("read", "documents"), kinds)
    for entry in unread[:_SHOWN]:
        output.note(f"not read: {entry['origin']}: {entry['reason']} ({entry['code']})")
    if len(unread) > _SHOWN:
        where = "unread.jsonl" if "folder" in extra else "--json"
        output.note(f"… and {len(unread) - _SHOWN} more, which {where} lists")
    for code, count in summary.unread.items() if len(unread) > _SHOWN else ():
        output.note(f"  {count} × {code}")
    output.note(
        f"{summary.num_files} files, {format_bytes(summary.file_bytes)}; left out: "
        f"{summary.num_duplicates} duplicates, {summary.num_near_duplicates} near-duplicates, "
        f"{summary.num_repeated_lines} lines that many documents share"
    )
    output.note(
        f"to train on: {summary.num_train} documents, {format_bytes(summary.train_bytes)}; "
        f"held out: {summary.num_held_out}, {format_bytes(summary.held_out_bytes)}"
    )
