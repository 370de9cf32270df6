"""How many threads compute fastest here, and which instructions the processor has."""

import os
from pathlib import Path
from typing import Final

import psutil

_ABOUT: Final = Path("/proc/cpuinfo")
# How Linux calls what makes multiplying faster, and how ggml does. Intel's tiles are not among them: see
# `native/backend.py`.
_FEATURES: Final = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_vbmi": "AVX512_VBMI",
    "avx512_bf16": "AVX512_BF16",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}


def default_threads() -> int:
    """Physical cores this process may use: a second thread on a core only waits for the first."""
    has_affinity = hasattr(os, "sched_getaffinity")
    usable = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or usable
    return max(1, min(usable, physical))


def processor_features() -> tuple[str, ...]:
    """What this processor can do that matters here, in ggml's words; nothing unless Linux tells."""
    try:
        text = _ABOUT.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    lines = (line.partition(":") for line in text.splitlines())
    # x86 has "flags", ARM "Features"; all cores are taken to be like the first.
    flags = next(
        (said.split() for key, _, said in lines if key.strip() in ("flags", "Features")), []
    )
    return tuple(name for flag, name in _FEATURES.items() if flag in flags)


def has_graphics() -> bool:
    """Whether the system knows a graphics card that can compute."""
    return any(Path("/dev/dri").glob("renderD*")) or Path("/proc/driver/nvidia/version").exists()
