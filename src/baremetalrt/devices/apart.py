"""Asks about a device in a process of its own: a driver that cannot be relied on ends that one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt.native.library import ENVIRONMENT_VARIABLE, load_library

# A graphics driver compiles its programs at the first try.
_DEADLINE_S: Final = 300.0


@dataclass(frozen=True)
class Said:
    """The last thing that such a process said, as an object, or how it ended without a word."""

    answer: dict[str, Any] | None
    end: str


def ask_apart(worker: Path, arguments: Sequence[str]) -> Said:
    """Runs a script with the library that this process has; blocks until it ends."""
    environment = {
        **os.environ,
        ENVIRONMENT_VARIABLE: str(load_library().path),
        "GGML_NO_BACKTRACE": "1",
    }
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
        return Said(None, f"it did not come to an end within {_DEADLINE_S:.0f} s")
    if done.returncode < 0:
        return Said(None, f"it ended with {signal.Signals(-done.returncode).name}")
    said = [line for line in done.stdout.splitlines() if line.startswith(b"{")]
    if done.returncode or not said:
        return Said(None, f"it ended with status {done.returncode}")
    answer = json.loads(said[-1])
    return Said(answer, answer.get("error", "it said nothing of use"))
