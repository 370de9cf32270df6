"""Runs a script on a library in a process of its own: one that faults there ends nothing else."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt.native.library import ENVIRONMENT_VARIABLE

# A graphics driver compiles its programs at the first try.
_DEADLINE_S: Final = 300.0
# Ends that the library or a driver brings about by itself, and would again.
_FAULTS: Final = frozenset(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE", "SIGBUS")
    if hasattr(signal, name)
)


@dataclass(frozen=True)
class Apart:
    """What such a process said, one JSON object after the other, and its status, None if it ran on."""

    said: tuple[dict[str, Any], ...]
    status: int | None

    @property
    def has_faulted(self) -> bool:
        """Whether it would end like this again; another end may be for want of memory, or of time."""
        return self.status is not None and -self.status in _FAULTS

    @property
    def end(self) -> str:
        """How it ended, in words."""
        if self.status is None:
            return f"did not come to an end within {_DEADLINE_S:.0f} s"
        if self.status < 0:
            return f"ended with {signal.Signals(-self.status).name}"
        return f"ended with status {self.status}"


def run_apart(worker: Path, library: Path, arguments: Sequence[str] = ()) -> Apart:
    """Blocks until the script has ended."""
    # Isolated from the folder that it runs in, not from what tells drivers which cards there are.
    environment = {**os.environ, ENVIRONMENT_VARIABLE: str(library), "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(worker), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Apart((), None)
    lines = (line for line in done.stdout.splitlines() if line.startswith(b"{"))
    return Apart(tuple(map(json.loads, lines)), done.returncode)
