"""`bmrt learn`: private documents and mail to a corpus that a model can be trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import output
from baremetalrt.cli.reading import ReadingLine
from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.documents.gathering import Summary
    from baremetalrt.documents.judging import GatherConfig

_SHOWN: int = 20


@click.command("learn")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--into", "name", metavar="NAME", help="What the result is called.")
@click.option("--dry-run", is_flag=True, help="Say what would be read and what not; keep nothing.")
@click.option("--replace", is_flag=True, help="Replace what NAME learned before.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Which documents are held out."
)
@click.option(
    "--held-out",
    type=click.FloatRange(0.0, 0.5),
    default=0.05,
    show_default=True,
    help="The part of the documents that is not trained on, but measured with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    paths: tuple[Path, ...],
    name: str | None,
    dry_run: bool,
    replace: bool,
    as_json: bool,
    **split: Any,
) -> None:
    """Read documents and mail below PATHS: text, Markdown, HTML, PDF, DOCX, EML, mbox, Maildir, code.

    Nothing leaves this machine. What is derived is in one folder, which only you can read; `bmrt forget
    NAME` deletes it. What cannot be read is listed, with the reason.
    """
    from baremetalrt.serve.learning import gather_corpus, survey, unread_of

    config = _config(**split)
    if dry_run:
        with ReadingLine() as line:
            summary, unread = survey(paths, config, line.show)
        _report(summary, unread, as_json=as_json, extra={"dry_run": True})
        return
    if name is None:
        raise UsageError(
            "the result needs a name",
            code="learn.no-name",
            parameter="name",
            hint="--into NAME, or --dry-run to look first",
        )
    with ReadingLine() as line:
        corpus = gather_corpus(paths, name, config, may_replace=replace, on_progress=line.show)
    extra = {"name": corpus.name, "folder": str(corpus.folder), "is_new": corpus.is_new}
    _report(corpus.summary, list(unread_of(corpus.folder)), as_json=as_json, extra=extra)
    if not as_json:
        output.note(f"{'in' if corpus.is_new else 'as before, in'} {corpus.folder}")


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
