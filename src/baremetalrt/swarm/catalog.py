"""The torrents that this machine has, on disk. Nothing here needs libtorrent, or starts anything.

One folder per torrent: `metainfo.torrent`, `resume` (libtorrent's own state), `record.json` (ours),
`data/` with the model, and `lock`, which the process that fetches or seeds it holds.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from baremetalrt.core.errors import BareMetalError, IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, try_lock, write_durably
from baremetalrt.core.ids import folded, is_infohash, split_choice
from baremetalrt.core.places import torrents_folder
from baremetalrt.core.units import format_bytes
from baremetalrt.swarm.cache_policy import decayed
from baremetalrt.swarm.model_choice import is_meant
from baremetalrt.swarm.records import FileSignature as FileSignature
from baremetalrt.swarm.records import Record as Record

_log = logging.getLogger("baremetalrt.swarm")
_MIN_PREFIX_CHARS: Final = 8
_SHOWN_CHARS: Final = 12
_RECORD: Final = "record.json"
_DATA: Final = "data"
_LOCK: Final = "lock"


class Uses(msgspec.Struct, kw_only=True):
    """How often each block was loaded, decayed to the time `at`."""

    blocks: list[float] = []
    at: float = 0.0


class Entry:
    """One torrent of the catalogue: its folder, and its record as it was read when this was made.

    Whoever holds it (`locked`) has the record as it is; of a torrent that another process holds, it may
    have changed since.
    """

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder = folder
        self.id = folder.name
        self.record = record

    @classmethod
    def open(cls, folder: Path) -> "Entry":
        """Reads what is remembered.

        Raises:
            IntegrityError: the record is damaged.
        """
        return cls(folder, _read_record(folder))

    @property
    def metainfo_path(self) -> Path:
        return self.folder / "metainfo.torrent"

    @property
    def resume_path(self) -> Path:
        return self.folder / "resume"

    @property
    def data_folder(self) -> Path:
        return self.folder / _DATA

    @property
    def model_paths(self) -> tuple[Path, ...]:
        """Where the parts of the model are."""
        return tuple(self.folder / path for path in self.record.paths)

    def save(self) -> None:
        """Writes the record down."""
        write_durably(self.folder / _RECORD, msgspec.json.encode(self.record))

    def uses(self) -> Uses:
        """How the blocks were used; nothing, if that cannot be read."""
        try:
            return msgspec.json.decode((self.folder / "uses.json").read_bytes(), type=Uses)
        except (OSError, msgspec.DecodeError):
            return Uses()

    def note_use(self, num_blocks: int, now: float) -> None:
        """Counts a use of every block. Needs no lock: of two at once, one may be lost."""
        uses = self.uses()
        before = [decayed(count, now - uses.at) for count in uses.blocks]
        before += [0.0] * (num_blocks - len(before))
        counted = Uses(blocks=[round(count + 1.0, 4) for count in before], at=now)
        try:
            write_durably(self.folder / "uses.json", msgspec.json.encode(counted))
        except OSError:
            pass  # a full disk must not keep a model from running

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the torrent for this process, and brings the record up to date.

        Raises:
            UsageError: another process fetches or seeds it, or it is gone by now.
            IntegrityError: the record is damaged by now.
        """
        with _trying(self.folder) as held:
            if not held:
                raise _busy(self.id)
            self.record = _read_record(self.folder)
            yield

    @property
    def is_busy(self) -> bool:
        """Whether some process holds the torrent now; raises `UsageError` if it is gone."""
        with _trying(self.folder) as held:
            return not held

    def is_meant(self, choice: str | None) -> bool:
        """Whether the model that is here may be meant by `choice`; None says nothing."""
        return choice is None or is_meant(self.record.choice or self.record.name, choice)

    @property
    def is_whole(self) -> bool:
        """Whether all of the model is here, and nobody touched it since it was verified."""
        record = self.record
        is_done = record.is_complete and not record.is_unchecked
        return is_done and record.signatures == [FileSignature.of(p) for p in self.model_paths]

    def is_gone(self) -> bool:
        """Whether somebody has removed its folder."""
        return not (self.folder / _RECORD).exists()

    def remove(self) -> int:
        """Deletes the torrent and what it fetched, never files in place; returns the bytes freed."""
        return _remove(self.folder)

    def allocated_bytes(self) -> int:
        """What the fetched data takes on disk; holes take nothing."""
        return _allocated_below(self.folder)


def ids() -> list[str]:
    """The name of every torrent's folder, in order. Leftovers of interrupted work are not among them."""
    try:
        paths = sorted(torrents_folder().iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        path.name
        for path in paths
        if is_infohash(path.name) and path.name == path.name.lower() and (path / _RECORD).exists()
    ]


def open_entry(id_: str) -> Entry:
    """The torrent with that name; raises like `Entry.open`."""
    return Entry.open(torrents_folder() / id_)


def entries() -> list[Entry]:
    """Every torrent, in the order of `ids`. Damaged ones are left out, and logged."""
    found = []
    for id_ in ids():
        try:
            found.append(open_entry(id_))
        except IntegrityError as error:
            _log.warning("%s (%s)", error.message, error.hint)
        except UsageError:
            pass  # it was removed since it was listed
    return found


def remove_damaged(id_: str) -> int:
    """Deletes a torrent whose record cannot be read, as `Entry.remove` does those that can be.

    Raises:
        UsageError: a process has it in use.
    """
    folder = torrents_folder() / id_
    with _trying(folder) as held:
        if not held:
            raise _busy(id_)
        return _remove(folder)


def sweep() -> int:
    """Deletes what interrupted removals left; returns how many there were."""
    left = [path for path in torrents_folder().glob(".removed-*") if path.is_dir()]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def add(id_: str, metainfo: bytes, record: Record) -> Entry:
    """Puts a torrent into the catalogue. One that is there already is left as it is.

    Raises:
        CapacityError: the disk is full.
        IntegrityError: it is there, and damaged.
    """
    folder = torrents_folder() / id_
    if (folder / _RECORD).exists():
        return Entry.open(folder)
    entry = Entry(folder, record)
    with disk_errors():
        entry.data_folder.mkdir(parents=True, exist_ok=True)
        write_durably(entry.metainfo_path, metainfo)
        record.added_at = record.added_at or time.time()
        entry.save()
    return entry


def find(reference: str) -> Entry | None:
    """The torrent that a user means: its name, or (the beginning of) an info-hash.

    Of a torrent of several models, the one that is here may be named behind a colon.

    Raises:
        UsageError: several are called that, or another model of that torrent is here.
        IntegrityError: it is named by its whole id, and damaged.
    """
    wanted = folded(reference.strip())
    if not wanted:
        return None
    if wanted in (known := ids()):
        return open_entry(wanted)
    present = [entry for id_ in known if (entry := _sound(id_)) is not None]
    found = _called(present, wanted)
    base, choice = split_choice(wanted)
    if not found and choice:
        named = _called(present, base)
        found = [e for e in named if e.is_meant(choice)]
        if named and not found:
            raise other_model(named[0], choice)
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} torrents are called {reference!r}: "
            + ", ".join(map(_told_apart, found)),
            code="model.ambiguous",
            parameter="model",
            hint="name one by the beginning of its info-hash",
        )
    return found[0] if found else None


def other_model(entry: Entry, choice: str) -> UsageError:
    """What is said to who wants another model of a torrent than the one that is here."""
    return UsageError(
        f"of that torrent {entry.record.name} is here, not {choice}",
        code="torrent.other-model",
        parameter="model",
        hint=f"`bmrt rm {entry.id[:_SHOWN_CHARS]}` first",
    )


def _sound(id_: str) -> Entry | None:
    """The torrent, unless it is damaged, or gone meanwhile."""
    try:
        return open_entry(id_)
    except BareMetalError:
        return None


def _called(present: list[Entry], wanted: str) -> list[Entry]:
    """Those with that name or hash, or else with a hash that begins so; names as `folded`."""

    def hashes(entry: Entry) -> list[str]:
        record = entry.record
        return [h for h in (entry.id, record.infohash_v1, record.infohash_v2) if h]

    def names(entry: Entry) -> list[str]:
        record = entry.record
        name = folded(record.name)
        files = [] if record.is_unchecked else [PurePosixPath(f).stem for f in record.hub_files]
        return [name, f"{name}.gguf", folded(record.title or name), *map(folded, files)]

    exact = [e for e in present if wanted in hashes(e)] or [
        e for e in present if wanted in names(e)
    ]
    if exact or len(wanted) < _MIN_PREFIX_CHARS:
        return exact
    return [e for e in present if any(h.startswith(wanted) for h in hashes(e))]


def _told_apart(entry: Entry) -> str:
    record = entry.record
    swarm = f", swarm {record.swarm}" if record.swarm else ""
    return f"{entry.id[:_SHOWN_CHARS]} ({format_bytes(record.num_bytes)}{swarm})"


@contextlib.contextmanager
def _trying(folder: Path) -> Iterator[bool]:
    """Whether this is the only holder of a torrent; raises `UsageError` if its folder is gone."""
    with contextlib.ExitStack() as stack:
        # A lock would make the folder anew.
        if not folder.is_dir():
            raise gone(folder.name)
        try:
            held = stack.enter_context(try_lock(folder / _LOCK))
        except FileNotFoundError as error:
            raise gone(folder.name) from error
        yield held


def gone(id_: str) -> UsageError:
    """What is said of a torrent whose files vanish under whoever wants them."""
    return UsageError(
        f"the torrent {id_[:_SHOWN_CHARS]} is not in the catalogue any more", code="catalog.gone"
    )


def _read_record(folder: Path) -> Record:
    path = folder / _RECORD
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError as error:
        raise gone(folder.name) from error
    except (OSError, msgspec.DecodeError) as error:
        raise IntegrityError(
            f"the record of torrent {folder.name} cannot be read: {error}",
            code="catalog.damaged",
            source=str(path),
            hint=f"`bmrt rm {folder.name}` removes it; what it fetched is lost",
        ) from error


def _busy(id_: str) -> UsageError:
    return UsageError(
        f"torrent {id_[:12]} is in use by another bmrt process",
        code="torrent.busy",
        hint="stop that one first, or ask it: `bmrt serve` answers for its own torrents",
    )


def _remove(folder: Path) -> int:
    freed = _allocated_below(folder)
    # Renamed first: what is left of an interrupted removal is nobody's torrent any more.
    doomed = folder.with_name(f".removed-{folder.name}-{time.time_ns()}")
    try:
        folder.rename(doomed)
    except FileNotFoundError as error:
        raise gone(folder.name) from error
    shutil.rmtree(doomed, ignore_errors=True)
    return freed


def _allocated_below(folder: Path) -> int:
    # What vanishes meanwhile takes nothing.
    return sum(
        _allocated(Path(where, name))
        for where, _, names in os.walk(folder / _DATA)
        for name in names
    )


def _allocated(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:
        return 0
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else 512 * int(blocks)
