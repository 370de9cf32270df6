"""One run of a name at a time: whoever learns or forgets under a name holds it for that long."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, try_lock
from baremetalrt.core.places import learned_folder


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """Holds what is learned under `name`; the system lets go of it when a process dies.

    Raises:
        UsageError: another process holds it now.
        CapacityError: the disk is full or forbidden.
    """
    with disk_errors():
        learned_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        learned_folder().chmod(0o700)
    with try_lock(lock_path(name)) as is_ours:
        if not is_ours:
            raise UsageError(
                f"{name!r} is being learned or forgotten by another process",
                code="learn.running",
                parameter="name",
                hint="let it end, or end it (Ctrl-C): what it has learned by then is kept",
            )
        yield


def lock_path(name: str) -> Path:
    """The file that is locked. On some systems `Name` and `name` are one folder: one lock for both."""
    return learned_folder() / f".{name.casefold()}.lock"
