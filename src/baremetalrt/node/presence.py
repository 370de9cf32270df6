"""What this user's processes have loaded, for whoever asks on this machine: a small file for each.

Nobody is called and nothing listens: `bmrt ps` reads what a process has written about itself, and takes
away what those left that were killed.
"""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from baremetalrt.core.places import running_folder
from baremetalrt.devices.memory import resident

# Between two looks at the clock that are written down: what is asked all the time is not slowed down.
_QUIET_S: Final = 2.0
_NUMBERS: Final = itertools.count()


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model, or a span of one, in the memory of a process; times in seconds since 1970.

    `weight_bytes` stay in memory, through `window_bytes` pass the `streamed_bytes` that do not. Of
    `cache_limit_bytes` for keys and values, `cache_bytes` are in use.
    """

    name: str
    blocks: str
    device: str
    context: int
    weight_bytes: int
    window_bytes: int
    streamed_bytes: int
    cache_bytes: int
    cache_limit_bytes: int
    since: float
    used: float


@dataclass(frozen=True, kw_only=True)
class RunningProcess:
    """A process of this program, since when it runs, its limit of memory, and what it has loaded."""

    pid: int
    since: float
    command: str
    limit_bytes: int | None
    models: tuple[LoadedModel, ...]

    @property
    def resident_bytes(self) -> int:
        """What it holds now, as `ps` counts it; with the processes that it has started."""
        return _resident_bytes(self.pid)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"resident_bytes": self.resident_bytes}


class Presence:
    """What a process writes about itself; `withdraw` it in the end."""

    def __init__(self, command: str, limit_bytes: int | None) -> None:
        self._path = running_folder() / f"{os.getpid()}-{next(_NUMBERS)}.json"
        self._command = command
        self._limit_bytes = limit_bytes
        self._written_at = -_QUIET_S

    def write(self, models: Iterable[LoadedModel]) -> None:
        """Says what is loaded now. That it cannot be written harms nobody."""
        self._written_at = time.monotonic()
        this = RunningProcess(
            pid=os.getpid(),
            since=psutil.Process().create_time(),
            command=self._command,
            limit_bytes=self._limit_bytes,
            models=tuple(models),
        )
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.parent.chmod(0o700)
            beside = self._path.with_suffix(".new")
            beside.write_text(json.dumps(asdict(this)))
            beside.replace(self._path)

    @property
    def is_due(self) -> bool:
        """Whether what was written is old enough to be written again."""
        return time.monotonic() - self._written_at > _QUIET_S

    def withdraw(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def running_processes() -> list[RunningProcess]:
    """Those of this user that have something loaded, the oldest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(running_folder().glob("*.json")):
            process = _read(path)
            if process is None:
                with contextlib.suppress(OSError):
                    path.unlink()
            else:
                found.append(process)
    return sorted(found, key=lambda process: process.since)


def _read(path: Path) -> RunningProcess | None:
    """What a process says, if it still runs: its number may be another's by now."""
    try:
        written = json.loads(path.read_text())
        models = tuple(LoadedModel(**model) for model in written.pop("models"))
        process = RunningProcess(**written, models=models)
        started = psutil.Process(process.pid).create_time()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, psutil.Error):
        return None
    return process if abs(started - process.since) < 1 else None


def _resident_bytes(pid: int) -> int:
    try:
        held = resident(pid)
    except psutil.Error:
        return 0
    return held.own_bytes + held.file_bytes
