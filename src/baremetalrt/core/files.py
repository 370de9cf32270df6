"""Writing to disk so that a crash, a power cut or a full disk loses nothing that was there."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.places import home


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file at once and for good; at no moment can anybody but its owner read it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_private(path: Path) -> None:
    """Makes sure that a file is there, and that nobody but its owner can read it, whoever made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)


@contextlib.contextmanager
def disk_errors(place: Path | None = None) -> Iterator[None]:
    """Turns what the system says of a full or forbidden disk into an error of ours.

    `place` is what was written to, where that is not the home folder.

    Raises:
        CapacityError: something inside raised `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise CapacityError(
            f"cannot write to {place or home()}: {error.strerror or error}",
            code="disk.write",
            hint="make room, or set BMRT_HOME to a folder on another disk",
        ) from error


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder survive a power cut. Windows cannot be told to."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Whether this is the only holder of a lock file now; what was won is held until the end.

    The system lets go of it when a process dies. Two holders in one process are two holders.
    """
    # Here and not above: it imports asyncio, and most commands lock nothing.
    import filelock

    lock = filelock.FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file, once whoever holds it now lets go."""
    import filelock

    with filelock.FileLock(path, thread_local=False):
        yield
