"""How many threads compute fastest here."""

import os

import psutil


def default_threads() -> int:
    """Physical cores this process may use: a second thread on a core only waits for the first."""
    has_affinity = hasattr(os, "sched_getaffinity")
    usable = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or usable
    return max(1, min(usable, physical))
