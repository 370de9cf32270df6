"""Runs under one name, as real processes: one at a time, killed, interrupted, ended, forgotten."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import document_kit as kit
from commands import BMRT, bmrt, environment, obey_interrupts

QUICK = (
    "--rate",
    "0.003",
    "--rank",
    "2",
    "--length",
    "32",
    "--step-tokens",
    "32",
    "--max-steps",
    "4",
)
QUICK += ("--samples", "0", "--check", "0", "--on-battery", "--json")
LIMIT_S = 240


@pytest.fixture
def command(tmp_path: Path, talking_model: Path) -> tuple[str, ...]:
    """Some pages, a model of no sense, and few steps."""
    for number in range(6):
        lines = [f"Line {i} of text {number} tells of ship {number * i}." for i in range(12)]
        kit.write(tmp_path / "docs", f"{number}.txt", "\n\n".join(lines))
    words = ("learn", str(tmp_path / "docs"), "--into", "ships", "--model", str(talking_model))
    return (*words, *QUICK)


@contextmanager
def started(command: tuple[str, ...], home: Path) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [*BMRT, *command],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=obey_interrupts,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def wait_for(line: str, process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    said = ""
    for said_line in process.stderr:
        said += said_line
        if line in said_line:
            return
    raise AssertionError(said)


def code_of(done: "subprocess.CompletedProcess[str]") -> str:
    code: str = json.loads(done.stdout)["error"]["code"]
    return code


def test_one_run_at_a_time_goes_on_until_it_is_done(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """While it runs, no second one and no forgetting; after Ctrl-C and `kill -9` the same command goes
    on; when it has ended, the same command says so; then it can be forgotten."""
    home = tmp_path / "home"
    assert bmrt(*command, "--gather-only", home=home).returncode == 0
    folder, adapter = home / "learned" / "ships", home / "adapters" / "ships"
    (folder / "pause").touch()
    with started(command, home) as first:
        wait_for("paused", first)
        texts = (folder / "train.jsonl").read_bytes()
        for words in (command, ("forget", "ships", "--yes", "--json")):
            refused = bmrt(*words, home=home)
            assert refused.returncode == 2 and code_of(refused) == "learn.running"
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=LIMIT_S)
    assert first.returncode == 130
    assert "interrupted at step 0 of 4: the same command goes on after step 0" in said
    assert "Traceback" not in said and (folder / "train.jsonl").read_bytes() == texts

    with started(command, home) as second:
        wait_for("paused", second)
        second.kill()
    (folder / "pause").unlink()
    other = bmrt(*command, "--seed", "7", home=home)
    assert other.returncode == 2 and code_of(other) in ("learn.exists", "tune.interrupted")
    ended = bmrt(*command, home=home, timeout_s=LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["is_new"] and report["steps"] == 4
    weights = (adapter / "adapter.gguf").stat()

    again = bmrt(*command, home=home)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {**report, "is_new": False}
    assert "has learned this already" in again.stderr and "bmrt forget ships" in again.stderr
    assert (adapter / "adapter.gguf").stat().st_mtime_ns == weights.st_mtime_ns

    forgotten = bmrt("forget", "ships", "--yes", home=home)
    assert forgotten.returncode == 0, forgotten.stderr
    assert list((home / "learned").iterdir()) == [] and not adapter.exists()


def test_without_held_out_text_all_is_trained_on(command: tuple[str, ...], tmp_path: Path) -> None:
    """`--held-out 0`: every step is done, the last is kept, and the report says why."""
    done = bmrt(*command, "--held-out", "0", home=tmp_path / "home", timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["held_out_perplexity"] is None and report["held_out_losses"] == []
    assert report["kept_step"] == report["steps"] == 4 and "nothing is held out" in report["kept"]


def test_what_is_wrong_is_said_before_anything_is_read(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """Models, modules and devices that are not there, and an adapter of that name from elsewhere."""
    home = tmp_path / "home"
    kit.write(home / "adapters" / "mine", "adapter.gguf", b"weights")
    for changes, code in (
        (("--model", "nonsense"), "model.not-found"),
        (("--model", "nonsense", "--gather-only"), "model.not-found"),
        (("--model", "nonsense", "--dry-run"), "model.not-found"),
        (("--model", __file__), "gguf.magic"),
        (("--targets", "nonsense"), "tune.targets"),
        (("--into", "mine"), "adapter.exists"),
    ):
        refused = bmrt(*command, *changes, home=home)
        assert code_of(refused) == code, refused.stderr
        assert "documents" not in refused.stderr and not (home / "learned" / "ships").exists()
    assert (home / "adapters" / "mine" / "adapter.gguf").read_bytes() == b"weights"


# Asks about four passages, and is killed like by `kill -9` once it has noted so many, if any.
ASK = """
import os, signal, sys
from pathlib import Path
from baremetalrt.learning import asking
from baremetalrt.learning.corpora import Corpus, load_summary
from baremetalrt.weights.store import StoredModel
folder, path, killed_after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
note = asking.Journal.__setitem__
def note_and_die(journal, key, outcome):
    note(journal, key, outcome)
    if len(journal) == killed_after:
        with open(folder / "asked.jsonl", "ab") as file:
            file.write(b'{"maker":')
        os.kill(os.getpid(), signal.SIGKILL)
asking.Journal.__setitem__ = note_and_die
corpus = Corpus(name="ships", folder=folder, summary=load_summary(folder))
print(asking.add_questions(corpus, StoredModel("talking", path, is_default=False), 4).num_passages)
"""


def test_a_kill_while_questions_are_made_asks_none_twice(
    command: tuple[str, ...], talking_model: Path, tmp_path: Path
) -> None:
    """After the second of four passages, in the middle of a line: in the end each has one, whatever came
    of it."""
    home = tmp_path / "home"
    assert bmrt(*command, "--gather-only", home=home).returncode == 0
    folder = home / "learned" / "ships"
    for killed_after, num_lines, said in ((2, 3, ""), (0, 4, "4\n")):
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(folder), str(talking_model), str(killed_after)],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == (-signal.SIGKILL if killed_after else 0), done.stderr
        lines = (folder / "asked.jsonl").read_text().splitlines()
        assert len(lines) == num_lines and done.stdout == said
        assert (folder / "questions.jsonl").exists() == (not killed_after)
    assert len({json.loads(line)["passage"] for line in lines}) == 4
