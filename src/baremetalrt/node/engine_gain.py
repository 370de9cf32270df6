"""How much faster an engine is than the bundled library, on this machine."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.engines.store import Gain, Installed
from baremetalrt.native.library import ENVIRONMENT_VARIABLE, packaged
from baremetalrt.weights.store import default_model

_WORKER: Final = Path(__file__).with_name("benchmark_worker.py")
# In turns, so that what else the machine does falls upon both.
_MAX_PAIRS: Final = 3
# A machine that is busy with other things gets no further pair after that.
_ENOUGH_S: Final = 60.0

_Speeds = dict[str, float]
# What takes seconds by itself: then the figures would be of what else the machine does.
_DEADLINE_S: Final = 90.0


def measure_gain(engine: Installed) -> Gain | None:
    """The default model in the engine and in the bundled library: medians of pairs; half a minute.

    None where one of the two is not there to compare with, or where the machine is too busy to tell.

    Raises:
        UsageError: the model cannot run in one of them.
    """
    bundled = next(packaged(), None)
    if bundled is None or default_model() is None:
        return None
    device = fastest_device(engine)
    started = time.monotonic()
    pairs: list[tuple[_Speeds, _Speeds]] = []
    try:
        while len(pairs) < _MAX_PAIRS and time.monotonic() - started < _ENOUGH_S:
            pairs.append((_speeds(engine.path, device), _speeds(bundled.path, "cpu")))
    except subprocess.TimeoutExpired:
        return None
    prefill, decode = (
        statistics.median(new[what] / old[what] for new, old in pairs)
        for what in ("prefill", "decode")
    )
    return Gain(device=device, prefill=round(prefill, 2), decode=round(decode, 2))


def fastest_device(engine: Installed) -> str:
    """The device that an engine is for: a graphics card, where it has found one."""
    others = (device.name for device in engine.devices if device.kind != "cpu")
    return next(others, "cpu")


def _speeds(library: Path, device: str) -> _Speeds:
    """Tokens per second of one library, in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_WORKER), device],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE_S,
            env={**os.environ, ENVIRONMENT_VARIABLE: str(library), "OPENBLAS_NUM_THREADS": "1"},
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UsageError(
            f"the default model does not run with {library.name} on {device}: {said or error}",
            code="engine.faulted",
            hint="it is not in use; `bmrt engine rm` removes it",
        ) from error
    speeds: _Speeds = json.loads(done.stdout)
    return speeds
