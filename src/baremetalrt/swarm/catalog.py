"""The torrents that this machine has, on disk. Nothing here needs libtorrent, or starts anything.

One folder per torrent: `metainfo.torrent`, `resume` (libtorrent's own state), `record.json` (ours),
`data/` with the model, and `lock`, which the process that fetches or seeds it holds.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.ids import is_infohash
from baremetalrt.swarm.cache_policy import decayed
from baremetalrt.swarm.files import disk_errors, write_durably
from baremetalrt.weights.store import torrents_folder

_MIN_PREFIX_CHARS: Final = 8


class FileSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the system says of a file; writes by anybody else than us change it."""

    num_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileSignature | None":
        """The signature of a file as it is now; None if it is not there."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Record(msgspec.Struct, kw_only=True):
    """What we remember of a torrent beside what libtorrent does.

    `paths` are the files of the model: relative to the folder, or absolute when they are somebody
    else's, which are read and never written. `is_complete` says that every piece was verified and is
    on disk. `wanted` lists the blocks to fetch without being asked, None for all of them. `num_sources`
    says, per piece, how many peers had it when last seen. `audited` is where the search for rot goes on.
    """

    name: str
    infohash_v1: str | None
    infohash_v2: str | None
    num_bytes: int
    paths: list[str]
    is_in_place: bool = False
    is_complete: bool = False
    swarm: str | None = None
    added_at: float = 0.0
    wanted: list[int] | None = None
    num_sources: list[int] = []
    num_have: int = 0
    signatures: list[FileSignature | None] = []
    audited: int = 0


class Uses(msgspec.Struct, kw_only=True):
    """How often each block was loaded, decayed to the time `at`."""

    blocks: list[float] = []
    at: float = 0.0


class Entry:
    """One torrent of the catalogue, by its folder. Reading needs no lock, changing does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name

    @property
    def metainfo_path(self) -> Path:
        return self.folder / "metainfo.torrent"

    @property
    def resume_path(self) -> Path:
        return self.folder / "resume"

    @property
    def data_folder(self) -> Path:
        return self.folder / "data"

    def record(self) -> Record:
        """Reads what is remembered.

        Raises:
            IntegrityError: the record is damaged.
        """
        path = self.folder / "record.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError) as error:
            raise IntegrityError(
                f"the record of torrent {self.id} cannot be read: {error}",
                code="catalog.damaged",
                source=str(path),
                hint=f"`bmrt rm {self.id}` removes it; what it fetched is lost",
            ) from error

    def save(self, record: Record) -> None:
        write_durably(self.folder / "record.json", msgspec.json.encode(record))

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

    def model_paths(self, record: Record) -> tuple[Path, ...]:
        """Where the parts of the model are."""
        return tuple(self.folder / path for path in record.paths)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the torrent for this process.

        Raises:
            UsageError: another process fetches or seeds it.
        """
        with self._try_lock() as held:
            if not held:
                raise UsageError(
                    f"torrent {self.id[:12]} is in use by another bmrt process",
                    code="torrent.busy",
                    hint="stop that one first, or ask it: `bmrt serve` answers for its own torrents",
                )
            yield

    @property
    def is_busy(self) -> bool:
        """Whether some process holds the torrent now."""
        with self._try_lock() as held:
            return not held

    @contextlib.contextmanager
    def _try_lock(self) -> Iterator[bool]:
        with (self.folder / "lock").open("ab") as file:
            yield _lock(file)  # closing the file lets go

    def remove(self) -> int:
        """Deletes the torrent and what it fetched, never files in place; returns the bytes freed."""
        freed = self.allocated_bytes()
        # Renamed first: what is left of an interrupted removal is nobody's torrent any more.
        doomed = self.folder.with_name(f".removed-{self.id}-{time.time_ns()}")
        self.folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        return freed

    def allocated_bytes(self) -> int:
        """What the fetched data takes on disk; holes take nothing."""
        return sum(_allocated(path) for path in self.data_folder.glob("**/*"))


def entries() -> list[Entry]:
    """Every torrent, oldest name first. Leftovers of interrupted work are not among them."""
    folder = torrents_folder()
    if not folder.is_dir():
        return []
    return [
        Entry(path)
        for path in sorted(folder.iterdir())
        if is_infohash(path.name)
        and path.name == path.name.lower()
        and (path / "record.json").exists()
    ]


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
    """
    entry = Entry(torrents_folder() / id_)
    if (entry.folder / "record.json").exists():
        return entry
    with disk_errors():
        entry.data_folder.mkdir(parents=True, exist_ok=True)
        write_durably(entry.metainfo_path, metainfo)
        record.added_at = record.added_at or time.time()
        entry.save(record)
    return entry


def find(reference: str) -> tuple[Entry, Record] | None:
    """The torrent that a user means: its name, or (the beginning of) an info-hash."""
    wanted = reference.lower()
    if not wanted:
        return None
    for entry in entries():
        try:
            record = entry.record()
        except IntegrityError:
            if wanted == entry.id:
                raise
            continue
        hashes = (entry.id, record.infohash_v1 or "", record.infohash_v2 or "")
        if wanted in (record.name.lower(), f"{record.name.lower()}.gguf", *hashes):
            return entry, record
        if len(wanted) >= _MIN_PREFIX_CHARS and any(h.startswith(wanted) for h in hashes if h):
            return entry, record
    return None


def _allocated(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:
        return 0
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else 512 * int(blocks)


def _lock(file: IO[bytes]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
