"""Agents are told of a server by their environment and arguments; servers are started by the system."""

import json
import os
import plistlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from baremetalrt.serve.agents import AGENTS, start_of
from baremetalrt.serve.looking import served_model
from baremetalrt.serve.service import service_of
from commands import BMRT, ServerProcess, bmrt, environment

MODEL = "SmolLM2-135M-Instruct.Q4_1"
# A program that says with what it was started.
_SAYS = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ)]))
sys.exit(7)
"""


def started(
    program: str, *arguments: str, home: Path, url: str
) -> tuple[list[str], dict[str, str]]:
    folder = home / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / program
    path.write_text(_SAYS)
    path.chmod(0o755)
    done = subprocess.run(
        [*BMRT, "launch", program, "--url", url, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(home) | {"PATH": f"{folder}:{os.environ['PATH']}"},
        timeout=120,
    )
    assert done.returncode == 7, done.stderr
    words, variables = json.loads(done.stdout)
    return words, variables


def test_an_agent_is_started_with_what_it_has_to_know(
    server: ServerProcess, tmp_path: Path
) -> None:
    words, _ = started("codex", "exec", "hello", home=tmp_path, url=server.url)
    assert words[-4:] == ["-m", MODEL, "exec", "hello"]
    assert f'base_url = "{server.url}/v1"' in words[3] and 'wire_api = "responses"' in words[3]
    words, variables = started("claude", "-p", "hello", home=tmp_path, url=f"{server.url}/v1/")
    assert words == ["-p", "hello"] and variables["ANTHROPIC_BASE_URL"] == server.url
    assert variables["ANTHROPIC_MODEL"] == MODEL
    _, variables = started("opencode", home=tmp_path, url=server.url)
    said = json.loads(variables["OPENCODE_CONFIG_CONTENT"])
    assert said["model"] == f"bmrt/{MODEL}"
    assert said["provider"]["bmrt"]["options"]["baseURL"] == f"{server.url}/v1"
    limit = said["provider"]["bmrt"]["models"][MODEL]["limit"]
    assert 0 < limit["output"] < limit["context"]


@pytest.mark.parametrize("program", AGENTS)
def test_it_is_printed_as_a_shell_reads_it(
    program: str, server: ServerProcess, tmp_path: Path
) -> None:
    done = bmrt(
        "launch", program, "--print", "--url", server.url, "--api-key", "k'y", home=tmp_path
    )
    *exports, words = done.stdout.splitlines()
    expected = start_of(program, served_model(server.url, MODEL, "k'y"))
    assert tuple(shlex.split(words)) == expected.words
    pairs = [shlex.split(line)[1].partition("=") for line in exports]
    assert {name: value for name, _, value in pairs} == expected.variables
    assert server.url in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("unheard-of",), "known: codex, claude"),
        (("codex", "--url", "http://127.0.0.1:9"), "bmrt serve"),
        (("codex", "--model", "none"), MODEL),
        (("aider",), "not installed"),
    ],
)
def test_what_cannot_be_started_is_said(
    arguments: tuple[str, ...], said: str, server: ServerProcess, tmp_path: Path
) -> None:
    if "--url" not in arguments:
        arguments = (*arguments, "--url", server.url)
    done = bmrt("launch", *arguments, home=tmp_path)
    assert done.returncode == 2 and said in done.stderr and not done.stdout


def test_what_is_no_program_is_said(server: ServerProcess, tmp_path: Path) -> None:
    """As an installation leaves it that was broken off."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "goose").write_text("nothing that a system runs\n")
    (folder / "goose").chmod(0o755)
    done = subprocess.run(
        [*BMRT, "launch", "goose", "--url", server.url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(tmp_path) | {"PATH": f"{folder}:{os.environ['PATH']}"},
        timeout=120,
    )
    assert done.returncode == 2 and "cannot be started" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_unit_is_printed(tmp_path: Path) -> None:
    arguments = ("model 100%.gguf", "--port", "9000", "--keep-alive", "5m")
    done = bmrt("service", "install", "--print", *arguments, home=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("ExecStart=")]
    assert '"serve" "model 100%%.gguf" "--port" "9000" "--keep-alive" "5m"' in line
    assert f'"BMRT_HOME={tmp_path}"' in done.stdout
    wrong = bmrt("service", "install", "--print", "--prot", "9000", home=tmp_path)
    assert wrong.returncode == 2 and "--prot" in wrong.stderr


def test_a_service_is_installed_once_and_removed(tmp_path: Path) -> None:
    """Where no systemd runs for this user, the unit is there all the same, and that is said."""
    path = tmp_path / ".config" / "systemd" / "user" / "bmrt.service"
    # No manager of a real user is spoken to.
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text("#!/bin/sh\necho 'no bus' >&2\nexit 1\n")
    (folder / "systemctl").chmod(0o755)

    def service(*arguments: str) -> Any:
        return subprocess.run(
            [*BMRT, "service", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(tmp_path) | {"PATH": f"{folder}:{os.environ['PATH']}"},
            timeout=120,
        )

    done = service("install", "--port", "9000")
    assert done.returncode == 0 and path.is_file() and "no bus" in done.stderr
    assert service("install", "--port", "9000").returncode == 0
    other = service("install", "--port", "9001")
    assert other.returncode == 2 and "another service" in other.stderr
    assert service("uninstall").returncode == 0 and not path.exists()
    assert service("uninstall").returncode == 2


def test_launchd_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    service = service_of(("--port", "9000"))
    said = plistlib.loads(service.text)
    assert said["ProgramArguments"][2:] == ["baremetalrt", "serve", "--port", "9000"]
    assert service.path.suffix == ".plist" and service.start[0][0] == "launchctl"
