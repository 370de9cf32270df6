"""One run of a name at a time: whoever learns or forgets under a name holds it for that long."""

import contextlib
import os
from collections.abc import Iterator

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
    # On some systems `Name` and `name` are one folder: one lock for both.
    path = learned_folder() / f".{name.casefold()}.lock"
    with contextlib.ExitStack() as stack:
        with disk_errors():
            is_ours = stack.enter_context(try_lock(path))
        if not is_ours:
            raise UsageError(
                f"{name!r} is being learned or forgotten by another process",
                code="learn.running",
                parameter="name",
                hint="let it end, or end it (Ctrl-C): what it has learned by then is kept",
            )
        try:
            yield
        finally:
            # Its name tells what was learned. Where a file in use cannot be deleted, it stays, empty.
            if not os.path.lexists(learned_folder() / name):
                with contextlib.suppress(OSError):
                    path.unlink()
