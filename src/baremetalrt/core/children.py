"""Processes that this one has started for itself."""

import contextlib
import subprocess
from typing import IO


def end_child(process: "subprocess.Popen[bytes]", *pipes: IO[bytes] | None) -> None:
    """Ends a process and what leads to it; what was still to be sent has nobody who takes it."""
    process.kill()
    process.wait()
    for pipe in pipes:
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
