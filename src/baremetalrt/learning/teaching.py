"""From examples in a folder to an adapter in the store: what `bmrt learn` and `bmrt finetune` share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from baremetalrt.core.errors import BareMetalError
from baremetalrt.learning.checking import check
from baremetalrt.learning.corpora import adapter_folder
from baremetalrt.learning.judging import JUDGED_BY
from baremetalrt.tuning.config import TuneConfig, TuneProgress
from baremetalrt.tuning.report import Checks
from baremetalrt.weights.adapters import store
from baremetalrt.weights.adapters.store import StoredAdapter, complete_trained
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.tuning.report import Report


def require_free(name: str, folder: Path, *, may_replace: bool) -> None:
    """Raises:
    UsageError: there is an adapter of that name that does not come from the runs in `folder`.
    """
    from baremetalrt.tuning.resuming import has_run

    if store.is_taken(name) and not has_run(folder) and not may_replace:
        raise store.exists(name)


def teach(
    config: TuneConfig,
    folder: Path,
    stored: StoredModel,
    name: str,
    on_progress: Callable[[TuneProgress], None],
    *,
    may_replace: bool = False,
) -> "tuple[Report, bool]":
    """Learns what is in `folder`; the adapter goes into the store as `name`. Then asks about it.

    Returns the report, and whether anything was learned: a run that has ended is not done again, only
    what is missing of the rest.

    Raises:
        UsageError, IntegrityError, CapacityError: see `tune`.
    """
    from baremetalrt.tuning.resuming import ended_run

    target = adapter_folder(name)
    report = ended_run(config, folder, stored.path, target)
    is_new = report is None

    def complete(report: "Report") -> None:
        base = GGUFFile.open(stored.path)
        complete_trained(target, base, base_name=stored.name, privacy=report.privacy)

    if report is None:
        # Here and not above: PyTorch takes seconds to load.
        from baremetalrt.tuning.tune import tune

        report = tune(
            config,
            folder,
            stored.path,
            target,
            on_progress,
            base_name=stored.name,
            may_replace=may_replace,
            finish=complete,
        )
    elif not StoredAdapter(target).is_complete:
        complete(report)
    if config.num_checks and report.checks is None:
        report = _checked(report, config, folder, stored, name, on_progress)
    return report, is_new


def _checked(
    report: "Report",
    config: TuneConfig,
    folder: Path,
    stored: StoredModel,
    name: str,
    on_progress: Callable[[TuneProgress], None],
) -> "Report":
    try:
        found = replace(report, checks=check(config, folder, stored, name, on_progress))
    except BareMetalError as error:
        # What was learned is learned. It is not saved, so that the same request asks again.
        note = f"nothing was asked: {error.message}"
        return replace(report, checks=Checks(checked=(), judged_by=JUDGED_BY, note=note))
    found.save(folder)
    return found
