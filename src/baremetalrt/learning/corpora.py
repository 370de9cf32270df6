"""What a person's documents become: one folder per name, which only its owner can read."""

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.core.installation import how_to_add
from baremetalrt.core.places import adapters_folder, home, learned_folder
from baremetalrt.documents.gathering import (
    HELD_OUT,
    TRAIN,
    UNREAD,
    OnProgress,
    Summary,
    gather,
)
from baremetalrt.documents.verdicts import GatherConfig
from baremetalrt.weights.adapters.store import check_name

_SUMMARY: Final = "corpus.json"
_REQUIRED: Final = ("chardet", "pypdfium2", "python_calamine", "selectolax", "striprtf")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Examples on disk, in `folder`. `is_new`: they were not there before, to the letter."""

    name: str
    folder: Path
    summary: Summary
    is_new: bool = True

    @property
    def train_path(self) -> Path:
        return self.folder / TRAIN

    @property
    def held_out_path(self) -> Path:
        return self.folder / HELD_OUT

    @property
    def unread_path(self) -> Path:
        return self.folder / UNREAD

    def unread(self) -> list[dict[str, str]]:
        """What could not be read: `origin`, `reason`, `code` of each."""
        return list(unread_of(self.folder))


def corpus_folder(name: str) -> Path:
    """Where everything derived from the documents called `name` is.

    Raises:
        UsageError: it is not a name.
    """
    check_name(name)
    return learned_folder() / name


def adapter_folder(name: str) -> Path:
    """Where the adapter of that name is; raises like `corpus_folder`."""
    return adapters_folder() / check_name(name)


def require_readers() -> None:
    """Raises:
    UsageError: what reads documents is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in _REQUIRED):
        raise UsageError(
            "reading documents needs a few packages that are not installed",
            code="learn.not-installed",
            hint=how_to_add("learn", "tune"),
        )


def gather_corpus(
    paths: Sequence[Path],
    name: str,
    config: GatherConfig | None = None,
    *,
    may_replace: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> Corpus:
    """Reads everything below `paths` into the folder of `name`.

    The same documents again leave that folder as it is, with whatever training has put there.

    Raises:
        UsageError: a path is missing, or `name` has learned other documents and may not be replaced.
        CapacityError: the disk is full, or there is no memory for the reading process.
    """
    check_name(name)
    require_readers()
    with drafted(name) as draft:
        summary = _gather(paths, draft, config, on_progress)
        _refuse_nothing(summary)
        return settle(name, draft, summary, may_replace=may_replace)


def settle(name: str, draft: Path, summary: Summary, *, may_replace: bool) -> Corpus:
    """Makes a draft what is learned under `name`, unless it says what is learned there already.

    Raises:
        UsageError: something else was learned under that name, and may not be replaced.
        CapacityError: the disk is full or forbidden.
    """
    folder = corpus_folder(name)
    known = load_summary(folder)
    if known is not None and known.digest == summary.digest:
        return Corpus(name=name, folder=folder, summary=known, is_new=False)
    if folder.exists() and not may_replace:
        raise UsageError(
            f"{name!r} has learned something else",
            code="learn.exists",
            parameter="name",
            hint=f"--replace, or `bmrt forget {name}`, or another name",
        )
    with disk_errors():
        (draft / _SUMMARY).write_bytes(msgspec.json.encode(summary))
        (draft / _SUMMARY).chmod(0o600)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    return Corpus(name=name, folder=folder, summary=summary)


@dataclass(frozen=True)
class Survey:
    """What would be gathered, and what could not be read: `origin`, `reason`, `code` of each."""

    summary: Summary
    unread: list[dict[str, str]]


def survey(
    paths: Sequence[Path],
    config: GatherConfig | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Survey:
    """What `gather_corpus` would gather, and what not and why. Nothing stays on disk."""
    require_readers()
    with drafted("survey") as draft:
        summary = _gather(paths, draft, config, on_progress)
        return Survey(summary, list(unread_of(draft)))


def unread_of(folder: Path) -> Iterator[dict[str, str]]:
    """What could not be read, of a gathered folder: `origin`, `reason`, `code`."""
    with (folder / UNREAD).open("rb") as lines:
        for line in lines:
            yield msgspec.json.decode(line, type=dict[str, str])


def load_summary(folder: Path) -> Summary | None:
    """The summary of a gathered folder; nothing where there is none, or it is damaged."""
    try:
        return msgspec.json.decode((folder / _SUMMARY).read_bytes(), type=Summary)
    except (OSError, msgspec.DecodeError):
        return None


def leftovers(name: str) -> list[Path]:
    """Folders in which a gathering for `name` was at work, or was killed."""
    parent = learned_folder()
    pattern = re.compile(rf"\.{re.escape(name)}\.\d+")
    return [path for path in parent.glob(f".{name}.*") if pattern.fullmatch(path.name)]


@contextlib.contextmanager
def drafted(name: str) -> Iterator[Path]:
    """A new folder beside the final one, gone at the end unless it was given its final name."""
    parent = learned_folder()
    for path in leftovers(name):
        if not psutil.pid_exists(int(path.name.rpartition(".")[2])):
            shutil.rmtree(path, ignore_errors=True)
    draft = parent / f".{name}.{os.getpid()}"
    with disk_errors():
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        parent.chmod(0o700)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _gather(
    paths: Sequence[Path], draft: Path, config: GatherConfig | None, on_progress: OnProgress
) -> Summary:
    with disk_errors():
        # What was learned before is not learned again.
        return gather(paths, draft, config, on_progress, without=home())


def _refuse_nothing(summary: Summary) -> None:
    if not summary.num_train:
        raise UsageError(
            "there is nothing to learn: no document could be read",
            code="learn.empty",
            parameter="paths",
            hint="`bmrt learn --dry-run PATH` says why",
        )
