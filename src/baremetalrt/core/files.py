"""Writing to disk so that a crash, a power cut or a full disk loses nothing that was there; and reading
what strangers, or mistakes, have put there.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.places import home
from baremetalrt.core.units import MIB, format_bytes


class NotRegularError(OSError):
    """What was to be read is a pipe, a socket or a device: without a size, and maybe without an end."""


def open_regular(path: Path | str | bytes, *, follow: bool = True) -> BinaryIO:
    """Opens a file for reading, and nothing that only stands in the place of one.

    Links are followed unless `follow` is false: folders of adapters consist of them, where a program
    keeps what it has fetched in one place.

    Raises:
        NotRegularError: it is a pipe, a socket or a device; nothing waits for it.
        OSError: it cannot be opened, or is a folder.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
        flags |= getattr(os, name, 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    # Windows takes names as text alone.
    descriptor = os.open(os.fsdecode(path) if os.name == "nt" else path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        if not stat.S_ISREG(mode):
            reason = "it is no file, but a pipe, a socket or a device"
            raise NotRegularError(errno.EINVAL, reason, os.fsdecode(path))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path | str, max_bytes: int) -> bytes:
    """All of a file that somebody named; raises like `open_regular`, and `OSError` if it is larger."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # What the system makes up has no size, and what is written to now has more in a moment.
        data = b"" if size > max_bytes else file.read(min(max_bytes, max(size, MIB)) + 1)
        if size > max_bytes or len(data) > max_bytes:
            reason = f"it is larger than {format_bytes(max_bytes)}"
            raise OSError(errno.EFBIG, reason, os.fspath(path))
        return data


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` at once and for good when the block ends well.

    Otherwise nothing is left of it. At no moment can anybody but its owner read it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file at once and for good; at no moment can anybody but its owner read it."""
    with durable_file(path) as file:
        file.write(data)


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

    lock = filelock.FileLock(path, timeout=0, thread_local=False, mode=0o600)
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

    with filelock.FileLock(path, thread_local=False, mode=0o600):
        yield
