"""A model of an architecture that only libllama knows, as its user sees it."""

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

import tiny_whole
from baremetalrt.session.tokenizer import Tokenizer
from commands import ServerProcess, bmrt
from oracle import LlamaCpp
from swarm_kit import SeedProcess, make_home

ARGUMENTS = ("--raw", "-t", "0", "-n", "12", "--json", "--threads", "1")
QUESTION = "Once upon a time"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whole.write(tmp_path_factory.mktemp("model") / "unknown.gguf", "lfm2")


@pytest.fixture(scope="module")
def expected(model: Path) -> list[int]:
    """What libllama says, called directly."""
    with LlamaCpp(model, n_ctx=512, num_threads=1) as oracle:
        prompt = Tokenizer(model).encode_prompt(QUESTION)
        oracle.decode(prompt, range(len(prompt)))
        row_V, said = oracle.logits(len(prompt) - 1), list[int]()
        while len(said) < 12:
            said.append(int(row_V.argmax()))
            row_V = oracle.step(said[-1], len(prompt) + len(said) - 1)
    return said


def ask(reference: object, *arguments: str, home: Path) -> list[int]:
    done = bmrt("run", str(reference), QUESTION, *ARGUMENTS, *arguments, home=home)
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)["tokens"]
    return found


def test_it_answers_as_libllama_does(model: Path, expected: list[int], tmp_path: Path) -> None:
    """And `show` says how it runs, and what is not to be had."""
    home = make_home(tmp_path)
    assert ask(model, home=home) == expected
    shown = bmrt("show", str(model), home=home).stdout
    assert "whole, through libllama: not on peers, while it arrives, or with adapters" in shown
    described = json.loads(bmrt("show", str(model), "--json", home=home).stdout)
    assert described["runnable"] and described["runs_whole"] and described["context"] == 1024


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "MODEL", "x", "--adapter", "any"), "adapter.route"),
        (("run", "MODEL", "x", "--context", "2000"), "context.exceeded"),
        (("serve", "--share", "MODEL"), "model.unknown-architecture"),
        (("plan", "MODEL"), "model.unknown-architecture"),
    ],
)
def test_what_is_not_to_be_had_is_said_in_two_lines(
    arguments: tuple[str, ...], code: str, model: Path, tmp_path: Path
) -> None:
    """What, and a hint."""
    home = make_home(tmp_path)
    if "serve" in arguments:
        assert bmrt("swarm", "create", "home", home=home).returncode == 0
    words = [str(model) if word == "MODEL" else word for word in arguments]
    done = bmrt(*words, home=home)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in lines[-2:]] == ["error", "hint"], lines
    assert "whole" in done.stderr or code == "context.exceeded"


def test_one_that_arrives_answers_when_it_is_all_here(
    model: Path, expected: list[int], tmp_path: Path
) -> None:
    """The same, and the next time without the swarm."""
    home = make_home(tmp_path / "home")
    with SeedProcess(model, home=make_home(tmp_path / "seed")) as seed:
        assert ask(seed.magnet, "--peer", seed.peer, home=home) == expected
    assert ask(seed.torrent["infohash_v2"], home=home) == expected


class Client:
    """Completions of one server; streamed text ends where an error comes instead of more."""

    def __init__(self, url: str) -> None:
        self._url = url

    def complete(self, model: str, count: int) -> str:
        with self._ask(model, count, stream=False) as answer:
            text: str = json.load(answer)["choices"][0]["text"]
        return text

    def _ask(self, model: str, count: int, *, stream: bool) -> Any:
        body = {"model": model, "prompt": QUESTION, "max_tokens": count, "temperature": 0}
        data = json.dumps(body | {"stream": stream}).encode()
        request = urllib.request.Request(
            f"{self._url}/v1/completions", data, {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=120)

    def stream_and_kill(self, model: str, count: int, pid: int) -> list[dict[str, Any]]:
        """What comes of an answer whose process is killed after its first words."""
        found: list[dict[str, Any]] = []
        with self._ask(model, count, stream=True) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    if not found:
                        os.kill(pid, signal.SIGKILL)
                    found.append(json.loads(line[6:]))
        return found


def test_a_server_outlives_its_process(model: Path, tmp_path: Path) -> None:
    """Killed in the middle of an answer: one error, and both models answer the next question."""
    other = tiny_whole.write(tmp_path / "other.gguf", "falcon")
    arguments = (str(model), str(other), "--context", "1024", "--threads", "1")
    with ServerProcess(*arguments, home=make_home(tmp_path / "home")) as server:
        client = Client(server.url)
        before = [client.complete(name, 12) for name in ("unknown", "other")]
        (pid, _) = sorted(
            child.pid
            for child in psutil.Process(server.process.pid).children()
            if "baremetalrt.session.whole.worker" in child.cmdline()
        )
        events = client.stream_and_kill("unknown", 900, pid)
        assert events[-1]["error"]["code"] == "model.killed", events[-1]
        assert 1 < len(events) < 900
        assert [client.complete(name, 12) for name in ("unknown", "other")] == before
        assert not psutil.pid_exists(pid)
