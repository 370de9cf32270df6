"""Writing to disk so that a crash, a power cut or a full disk loses nothing that was there."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from baremetalrt.core.errors import CapacityError
from baremetalrt.weights.store import home


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


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what the system says of a full or forbidden disk into an error of ours."""
    try:
        yield
    except OSError as error:
        raise CapacityError(
            f"cannot write to {home()}: {error.strerror or error}",
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
