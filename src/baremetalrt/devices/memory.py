"""How much memory there is, as the system says, inside a container too."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_ROOT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Version:
    """How a version of control groups says what may be used, and what is.

    `file_pages` are in use only as long as nobody else needs them: the system drops them for whoever
    asks. Shared memory counts as file pages, and cannot be dropped.
    """

    folder: str
    limit: str
    usage: str
    file_pages: str
    shared_memory: str


_V2: Final = _Version("", "memory.max", "memory.current", "file", "shmem")
_V1: Final = _Version(
    "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"
)


def available_bytes() -> int:
    """Memory that can be used without pushing anything out, container limits included."""
    available = int(psutil.virtual_memory().available)
    return min([available, *_left_in_groups()])


def total_bytes() -> int:
    return int(psutil.virtual_memory().total)


@dataclass(frozen=True)
class Resident:
    """Memory that processes hold now: `own_bytes` for good, `file_bytes` of files that are mapped."""

    own_bytes: int
    file_bytes: int


def resident(pid: int | None = None) -> Resident:
    """What a process, this one or another, and those that it has started hold, as `ps` counts it.

    Raises:
        psutil.Error: there is no such process.
    """
    own, file = 0, 0
    this = psutil.Process(pid)
    for process in (this, *this.children(recursive=True)):
        try:
            one = _resident_of(process)
        except (psutil.Error, OSError):
            continue  # it has ended
        own, file = own + one.own_bytes, file + one.file_bytes
    return Resident(own, file)


def _resident_of(process: psutil.Process) -> Resident:
    total = int(process.memory_info().rss)
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return Resident(total, 0)
    match = re.search(r"^RssFile:\s*(\d+) kB", status.read_text(), re.MULTILINE)
    file = 1024 * int(match[1]) if match else 0
    return Resident(max(0, total - file), file)


def _left_in_groups(root: Path = _ROOT, own: Path = _OWN) -> Iterator[int]:
    """What every control group around this process leaves it, where it has a limit."""
    for version, group in _own_groups(own):
        folder = root / version.folder
        # Inside a container the path may be that of outside: then the root is the group.
        inside = folder / group.lstrip("/")
        start = inside if inside.is_dir() else folder
        for place in (start, *start.parents):
            left = _left(version, place)
            if left is not None:
                yield left
            if place == folder:
                break


def _own_groups(own: Path) -> Iterator[tuple[_Version, str]]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            yield _V2, group
        elif "memory" in controllers.split(","):
            yield _V1, group


def _left(version: _Version, place: Path) -> int | None:
    limit, usage = _number(place / version.limit), _number(place / version.usage)
    if limit is None or usage is None:
        return None
    stat = _stat(place / "memory.stat")
    droppable = stat.get(version.file_pages, 0) - stat.get(version.shared_memory, 0)
    return max(0, limit - max(0, usage - max(0, droppable)))


def _stat(path: Path) -> Mapping[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(" ") for line in lines)
    return {name: int(value) for name, _, value in pairs if value.strip().isdigit()}


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
