"""`kill -9` in the middle of tuning costs what was done since the last checkpoint, and nothing else."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from commands import environment

KIT = Path(__file__).parents[1] / "tuning_kit.py"


def start(folder: Path, steps: int) -> "subprocess.Popen[str]":
    variables = environment(folder) | {"PYTHONPATH": str(KIT.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(KIT), str(folder), str(steps)],
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )


def finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    body: dict[str, Any] = json.loads(out.splitlines()[-1])
    return body


def kill_at_random(folder: Path, steps: int, rng: random.Random) -> bool:
    """Whether the process was still at work when it was killed."""
    process = start(folder, steps)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(rng.uniform(0.0, 1.0))
    was_running = process.poll() is None
    process.kill()
    process.wait()
    process.stdout.close()
    return was_running


def check(folder: Path, *, kills: int, steps: int) -> None:
    rng = random.Random(kills)
    whole = finish(start(folder / "whole", steps))
    killed = sum(kill_at_random(folder / "killed", steps, rng) for _ in range(kills))
    resumed = finish(start(folder / "killed", steps))
    assert killed >= 1
    for key in ("losses", "held_out", "best_step", "weights"):
        assert resumed[key] == whole[key]


def test_a_kill_changes_no_loss(tmp_path: Path) -> None:
    """All losses and weights are those of a run that nobody disturbed, to the last bit."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    check(tmp_path, kills=1, steps=40)


@pytest.mark.slow
def test_ten_kills_change_no_loss(tmp_path: Path) -> None:
    """The same at ten random moments."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    check(tmp_path, kills=10, steps=400)
