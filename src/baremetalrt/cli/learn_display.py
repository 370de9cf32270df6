"""What happens while documents and examples become an adapter, as people see it on standard error."""

from typing import TYPE_CHECKING, Any, Final, Self

from baremetalrt.cli import output
from baremetalrt.cli.progress_line import gathering_line, tuning_line
from baremetalrt.cli.status_line import StatusLine
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.learning.events import Event, QuestionsMade
    from baremetalrt.learning.learn import Learned

# Where output is no terminal, a line of training now and then is enough.
_TUNING_LOG_INTERVAL_S: Final = 30.0
_SHOWN: Final = 20


class LearnDisplay:
    """Prints events; a context manager, in the end of which its line goes away."""

    def __init__(self, *, is_silent: bool = False) -> None:
        """`is_silent`: what was read is not listed, because the end is printed for a program."""
        self._is_silent = is_silent
        self._gathering = StatusLine(after_s=1.0)
        self._tuning = StatusLine(log_interval_s=_TUNING_LOG_INTERVAL_S)
        self._last: Event | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.clear()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            output.note(how_to_go_on(self._last))

    def clear(self) -> None:
        self._gathering.clear()
        self._tuning.clear()

    def on_event(self, event: "Event") -> None:
        from baremetalrt.learning import events

        self._last = event
        if isinstance(event, events.GatherProgress):
            if self._gathering.is_due:
                self._gathering.show(gathering_line(event))
        elif isinstance(event, events.AskedAbout):
            self._gathering.update(f"asked about {event.done} of {event.total} passages")
        elif isinstance(event, events.TuneProgress):
            self._show_tuning(event)
        elif isinstance(event, events.QuestionsMade):
            self.clear()
            _print_questions(event)
        elif not self._is_silent:
            self.clear()
            corpus = event.corpus
            print_corpus(corpus.summary, corpus.unread(), is_kept=True)
            output.note(f"{'in' if corpus.is_new else 'as before, in'} {corpus.folder}")

    def _show_tuning(self, progress: Any) -> None:
        self._gathering.clear()
        is_last = progress.phase == "training" and progress.step == progress.num_steps
        if is_last or progress.phase == "paused" or self._tuning.is_due:
            self._tuning.show(tuning_line(progress))


def how_to_go_on(last: "Event | None") -> str:
    """What an interruption leaves, and what the same command will do; `last` was heard before it."""
    from baremetalrt.learning import events

    if isinstance(last, events.TuneProgress):
        if last.phase in ("reporting", "asking"):
            return "interrupted: all steps are done; the same command goes on with the report"
        if last.saved_step is not None:
            return (
                f"interrupted at step {last.step} of {last.num_steps}: "
                f"the same command goes on after step {last.saved_step}"
            )
        return "interrupted before the first step: the same command goes on there"
    if isinstance(last, events.AskedAbout):
        return (
            f"interrupted after {last.done} of {last.total} passages: "
            "the same command goes on with the next one"
        )
    if isinstance(last, (events.Gathered, events.QuestionsMade)):
        return "interrupted: what was read is kept; the same command goes on with it"
    return "interrupted: nothing is kept; the same command begins anew"


def _print_questions(event: "QuestionsMade") -> None:
    report = event.report
    why = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
    output.note(
        f"questions: {report.num_kept} of {report.num_passages} kept" + (f"; {why}" if why else "")
    )
    for sample in report.samples:
        output.note(f"  {sample['question']} {sample['answer']}")


def print_corpus(summary: Any, unread: list[dict[str, str]], *, is_kept: bool) -> None:
    """What was read, what not and why, and what is left to train on."""
    if summary.documents:
        output.print_table(("read", "documents"), list(summary.documents.items()))
    for entry in unread[:_SHOWN]:
        output.note(f"not read: {entry['origin']}: {entry['reason']} ({entry['code']})")
    if len(unread) > _SHOWN:
        where = "unread.jsonl" if is_kept else "--json"
        output.note(f"… and {len(unread) - _SHOWN} more, which {where} lists")
    for code, count in summary.unread.items() if len(unread) > _SHOWN else ():
        output.note(f"  {count} × {code}")
    output.note(
        f"{summary.num_files} files, {format_bytes(summary.file_bytes)}; left out: "
        f"{summary.num_duplicates} duplicates, {summary.num_near_duplicates} near-duplicates, "
        f"{summary.num_repeated_lines} lines that many documents share"
    )
    share = 100 * summary.held_out_bytes / max(1, summary.train_bytes + summary.held_out_bytes)
    output.note(
        f"to train on: {summary.num_train} texts, {format_bytes(summary.train_bytes)}; "
        f"held out: {summary.num_held_out}, {format_bytes(summary.held_out_bytes)} ({share:.1f} %)"
    )


def print_learned(learned: "Learned", *, as_json: bool) -> None:
    """The report of a run that has ended."""
    from baremetalrt.cli.run_report import describe

    report = learned.report
    assert report is not None
    if not learned.is_new:
        output.note(
            f"{learned.name} has learned this already; this is the report of that run. To learn it "
            f"again, `bmrt forget {learned.name}` first"
        )
    if as_json:
        output.print_json({**report.as_json(), "is_new": learned.is_new})
        return
    output.note(report.curves())
    print(describe(report))
    output.note(
        f"report and curves: {learned.folder}\n"
        f"use it: bmrt run {learned.model} --adapter {learned.name}"
    )
