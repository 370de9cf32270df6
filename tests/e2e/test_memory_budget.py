"""A budget that is kept, seen from outside; and what this machine has loaded, said without any swarm."""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from baremetalrt.core.units import MIB
from baremetalrt.weights.store import default_model
from commands import ServerProcess, bmrt

ASK = ("run", "--raw", "--no-repack", "-t", "0", "-n", "12", "The sea is")
BUDGET = 150 * MIB


def loaded(home: Path) -> list[dict[str, Any]]:
    listed = bmrt("ps", "--json", home=home)
    assert listed.returncode == 0, listed.stderr
    processes: list[dict[str, Any]] = json.loads(listed.stdout)["processes"]
    return processes


def ask(url: str, n: int = 4) -> None:
    body = json.dumps({"prompt": "The sea is", "max_tokens": n, "temperature": 0}).encode()
    request = urllib.request.Request(
        f"{url}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert json.load(answer)["choices"][0]["text"]


def resident(pid: int) -> int:
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def test_less_memory_than_the_model_gives_the_same_answer(tmp_path: Path) -> None:
    plain = bmrt(*ASK, home=tmp_path)
    tight = bmrt(*ASK, "--memory", "130MiB", home=tmp_path)
    assert plain.returncode == tight.returncode == 0, tight.stderr
    assert tight.stdout == plain.stdout


def test_a_budget_is_kept_and_shown(tmp_path: Path) -> None:
    """As `ps` of the system counts it, children included, at every moment from the start to the end."""
    with ServerProcess("--memory", f"{BUDGET // MIB}MiB", home=tmp_path) as server:
        peak = resident(server.process.pid)
        ask(server.url)
        for _ in range(5):
            ask(server.url, 8)
            peak = max(peak, resident(server.process.pid))
        assert peak <= BUDGET
        (process,) = loaded(tmp_path)
        assert (process["pid"], process["limit_bytes"]) == (server.process.pid, BUDGET)
        assert process["command"] == "serve" and process["resident_bytes"] <= BUDGET
        (model,) = process["models"]
        assert model["streamed_bytes"] > 20 * MIB
        size = default_model().path.stat().st_size
        assert model["weight_bytes"] + model["window_bytes"] < size
        assert 0 <= model["cache_bytes"] <= model["cache_limit_bytes"] < BUDGET // 4
        used, now = model["used"], time.time()
        assert model["since"] <= used <= now < used + 600
        printed = bmrt("ps", home=tmp_path)
        assert default_model().name in printed.stdout and "150.0 MiB in all" in printed.stderr
    assert loaded(tmp_path) == []


def test_what_was_killed_is_not_listed(tmp_path: Path) -> None:
    server = ServerProcess(home=tmp_path)
    assert len(loaded(tmp_path)) == 1
    server.process.kill()
    server.process.wait()
    assert loaded(tmp_path) == []
    assert not list((tmp_path / "running").iterdir())
    assert "nothing is loaded here" in bmrt("ps", home=tmp_path).stderr
    assert server.process.stderr is not None
    server.process.stderr.close()


def test_a_budget_that_is_too_small_is_said(tmp_path: Path) -> None:
    done = bmrt(*ASK, "--memory", "60MiB", home=tmp_path)
    assert done.returncode == 4 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "\nhint: " in done.stderr
