"""Under a real cap of memory, which the system enforces by killing: the same tokens, and no kill."""

import json
import subprocess
from pathlib import Path

import pytest

import large_model
from caps import Cap, available
from commands import BMRT, environment
from peers_kit import at_home

ASK = (
    "run",
    "--raw",
    "--no-repack",
    "-t",
    "0",
    "-n",
    "3",
    "--context",
    "256",
    "--json",
    "The sea is",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="needs control groups, and rights to make them"),
]


def ask(model: Path, home: Path, cap: Cap | None = None) -> list[int]:
    done = subprocess.run(
        [*BMRT, ASK[0], str(model), *ASK[1:]],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment(home),
        preexec_fn=cap.join if cap else None,
    )
    assert done.returncode == 0, done.stderr
    tokens: list[int] = json.loads(done.stdout)["tokens"]
    return tokens


@pytest.fixture(scope="module", params=["dense", "mixture"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with at_home(tmp_path_factory.mktemp("models")):
        make = {"dense": large_model.dense, "mixture": large_model.mixture}[request.param]
        return make(16) if request.param == "dense" else make()


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    return ask(model, tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_cap_is_kept(model: Path, expected: list[int], share: float, tmp_path: Path) -> None:
    """The room that is seen inside a container is what is planned with; nothing else is said."""
    limit = int(model.stat().st_size * share)
    with Cap(limit, 0, model) as cap:
        assert ask(model, tmp_path, cap) == expected
        assert cap.num_kills == 0 and cap.peak_bytes <= limit
