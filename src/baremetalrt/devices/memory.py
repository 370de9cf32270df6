"""How much memory there is for a model."""

from pathlib import Path
from typing import Final

import psutil

# Where Linux says what a container may use and uses: cgroups v2, then v1.
_CGROUPS: Final = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_bytes() -> int:
    """Memory that can be used without pushing anything out, container limits included."""
    available = int(psutil.virtual_memory().available)
    for limit_path, usage_path in _CGROUPS:
        limit, usage = _read(limit_path), _read(usage_path)
        if limit is not None and usage is not None:
            return max(0, min(available, limit - usage))
    return available


def total_bytes() -> int:
    return int(psutil.virtual_memory().total)


def _read(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
