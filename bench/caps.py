"""Control groups of Linux, version 1: a limit of memory and a rate of reading for a benchmark."""

import os
import tempfile
import time
from pathlib import Path
from typing import Self

# Only guards against what never leaves.
_LEAVES_S = 30.0
_ROOT = Path("/sys/fs/cgroup")


class Cap:
    """Processes that `join` have so much memory together, page cache included, and read so fast."""

    def __init__(self, memory_bytes: int, read_bytes_per_s: int, path: Path) -> None:
        """`path`: what is read; the disk it lies on is limited."""
        number = f"{os.getpid()}-{next(tempfile._get_candidate_names())}"
        self._memory = _ROOT / "memory" / f"bench-{number}"
        self._disk = _ROOT / "blkio" / f"bench-{number}"
        for group in (self._memory, self._disk):
            group.mkdir()
        (self._memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
        if read_bytes_per_s:
            limit = f"{_disk_of(path)} {read_bytes_per_s}"
            (self._disk / "blkio.throttle.read_bps_device").write_text(limit)

    def join(self) -> None:
        """For `preexec_fn`."""
        for group in (self._memory, self._disk):
            (group / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak_bytes(self) -> int:
        """The most memory that was in use, page cache included."""
        return int((self._memory / "memory.max_usage_in_bytes").read_text())

    @property
    def num_kills(self) -> int:
        """Processes that the system ended for want of memory."""
        lines = (self._memory / "memory.oom_control").read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    @property
    def read_bytes(self) -> int:
        """What came from the disk so far."""
        lines = (self._disk / "blkio.throttle.io_service_bytes").read_text().splitlines()
        return sum(int(line.split()[2]) for line in lines if line.split()[1] == "Read")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for group in (self._memory, self._disk):
            _remove(group)


def _remove(group: Path) -> None:
    """Once everybody has left it: what a killed process had started ends a moment after it."""
    deadline = time.monotonic() + _LEAVES_S
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def available() -> bool:
    """Whether this user may make such groups here."""
    return os.access(_ROOT / "memory", os.W_OK) and os.access(_ROOT / "blkio", os.W_OK)


def _disk_of(path: Path) -> str:
    """The number of the disk: that of a partition has no limit of its own."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    folder = Path("/sys/dev/block") / number
    if (folder / "partition").exists():
        return (folder.resolve().parent / "dev").read_text().strip()
    return number
