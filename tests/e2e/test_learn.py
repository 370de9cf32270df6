"""`bmrt learn` and `bmrt forget`, as a user starts them."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pyte
import pytest

import document_kit as kit
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Record
from commands import BMRT, bmrt, environment, obey_interrupts, on_a_terminal

TEXTS = {
    "letter.txt": "A letter about the harbour, which nobody had seen for years, and about its ships.",
    "notes.md": "# Notes\n\nWhat was said in the meeting about ropes, tar and who pays for both of them.",
    "page.html": "<html><nav>Menu</nav><p>A page on how wool is weighed before it is put on a ship.</p>",
    "tool.py": "def weigh(wool):\n    return sum(bale.weight for bale in wool)\n",
}


def documents(folder: Path) -> Path:
    for name, text in TEXTS.items():
        kit.write(folder, name, text)
    kit.write(
        folder, "report.pdf", kit.pdf([["A report on amber, four pages long in the original."]])
    )
    kit.write(folder, "plan.docx", kit.docx("The plan for the winter, in which no ship goes out."))
    kit.write(
        folder, "mail.eml", bytes(kit.mail("Could you send me the plan for the winter again?"))
    )
    kit.write(folder, "locked.pdf", kit.pdf([["secret"]], password="x"))
    os.mkfifo(folder / "pipe")
    return folder


def test_a_dry_run_says_what_would_be_read_and_keeps_nothing(tmp_path: Path) -> None:
    """Every kind, what was not read and why; no file of it remains."""
    home = tmp_path / "home"
    result = bmrt("learn", str(documents(tmp_path / "docs")), "--dry-run", "--json", home=home)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["documents"] == {
        "code": 1, "docx": 1, "html": 1, "mail": 1, "markdown": 1, "pdf": 1, "text": 1,
    }  # fmt: skip
    assert {(Path(u["origin"]).name, u["code"]) for u in said["unread_items"]} == {
        ("locked.pdf", "document.encrypted"),
        ("pipe", "file.special"),
    }
    assert said["num_train"] + said["num_held_out"] == 7 and said["dry_run"]
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_people_see_kinds_sizes_and_reasons(tmp_path: Path) -> None:
    """On standard error what is for people, the table on standard output."""
    result = bmrt("learn", str(documents(tmp_path / "docs")), "--dry-run", home=tmp_path / "home")
    assert "markdown" in result.stdout and "locked.pdf" not in result.stdout
    assert "it is encrypted (document.encrypted)" in result.stderr
    assert "held out: 2, " in result.stderr


def test_learning_and_forgetting(tmp_path: Path) -> None:
    """What was gathered is there, then nothing of it; the documents stay."""
    home, docs = tmp_path / "home", documents(tmp_path / "docs")
    result = bmrt("learn", str(docs), "--into", "harbour", "--gather-only", "--json", home=home)
    assert result.returncode == 0, result.stderr
    folder = Path(json.loads(result.stdout)["folder"])
    assert folder == home / "learned" / "harbour"
    assert (
        "wool is weighed"
        in (folder / "train.jsonl").read_text() + (folder / "held_out.jsonl").read_text()
    )
    kit.write(home / "adapters" / "harbour", "adapter.gguf", b"weights")
    refused = bmrt("forget", "harbour", home=home)
    assert refused.returncode == 2 and "--yes" in refused.stderr and folder.exists()
    forgotten = bmrt("forget", "harbour", "--yes", "--json", home=home)
    assert forgotten.returncode == 0, forgotten.stderr
    said = json.loads(forgotten.stdout)
    assert said["deleted"] == [str(folder), str(home / "adapters" / "harbour")]
    assert "still hold" in said["beyond_reach"]
    assert not folder.exists() and not (home / "adapters" / "harbour").exists()
    assert {path.name for path in docs.iterdir()} >= set(TEXTS)
    again = bmrt("forget", "harbour", "--yes", "--json", home=home)
    assert again.returncode == 2
    assert json.loads(again.stdout)["error"]["code"] == "learn.not-found"


def test_forgetting_ends_the_torrent_of_a_shared_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that others keep what they fetched."""
    home = tmp_path / "home"
    adapter = kit.write(home / "adapters" / "harbour", "adapter.gguf", b"weights")
    elsewhere = kit.write(tmp_path, "other.gguf", b"weights")
    monkeypatch.setenv("BMRT_HOME", str(home))
    for id_, path in (("ab" * 20, adapter), ("cd" * 20, elsewhere)):
        record = Record(
            name=path.stem,
            infohash_v1=id_,
            infohash_v2=None,
            num_bytes=7,
            paths=[str(path)],
            is_in_place=True,
            is_complete=True,
        )
        catalog.add(id_, b"", record)
    result = bmrt("forget", "harbour", "--yes", "--json", home=home)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["torrents"] == ["ab" * 20] and "others fetched" in said["beyond_reach"]
    assert [path.name for path in (home / "torrents").iterdir() if path.is_dir()] == ["cd" * 20]
    assert elsewhere.exists()


def test_forgetting_deletes_links_and_not_what_they_lead_to(tmp_path: Path) -> None:
    """A folder that was moved to another disk is not ours to empty."""
    home, target = tmp_path / "home", tmp_path / "elsewhere"
    kit.write(target, "keep.txt", "words")
    (home / "learned").mkdir(parents=True)
    (home / "learned" / "harbour").symlink_to(target)
    assert bmrt("forget", "harbour", "--yes", home=home).returncode == 0
    assert not os.path.lexists(home / "learned" / "harbour")
    assert (target / "keep.txt").exists()


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    """A path that is not there, a name that is missing or none."""
    for arguments, code in (
        (["learn", "/no/such/place", "--dry-run"], "documents.not-found"),
        (["learn", str(tmp_path)], "learn.no-name"),
        (["learn", str(tmp_path), "--into", "../x", "--gather-only"], "adapter.name"),
        (["forget", "../x"], "adapter.name"),
    ):
        result = bmrt(*arguments, "--json", home=tmp_path / "home")
        assert result.returncode == 2
        assert json.loads(result.stdout)["error"]["code"] == code


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk."""
    docs, home = tmp_path / "docs", tmp_path / "home"
    for number in range(200):
        kit.write(docs, f"{number}.txt", f"Text {number}. " + "Some words of it. " * 1000)
    command = ["bash", "-c", 'ulimit -f 1024; exec "$@"', "-", *BMRT]
    result = subprocess.run(
        [*command, "learn", str(docs), "--into", "harbour", "--gather-only", "--json"],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 4, result.stderr
    assert json.loads(result.stdout)["error"]["code"] == "disk.write"
    assert list((home / "learned").iterdir()) == []


def large_mailbox(path: Path, num_messages: int = 20_000) -> Path:
    """Some seconds of reading."""
    message = bytes(kit.mail("Some words, again and again. " * 40))
    with path.open("wb") as file:
        for _ in range(num_messages):
            file.write(b"From a@b Tue Nov 24 10:00:00 2026\n" + message + b"\n\n")
    return path


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    """Share, size, documents and file, on one line that is taken away at the end."""
    box = large_mailbox(tmp_path / "box.mbox", 6_000)
    shown = on_a_terminal("learn", str(box), "--dry-run", home=tmp_path / "home")
    pattern = rb"reading +\d+ %  .* of .* MiB  \d+ documents  box.mbox"
    assert re.search(pattern, shown) and b"comparing" in shown
    left = pyte.Screen(120, 24)
    pyte.ByteStream(left).feed(shown)
    assert "reading" not in "".join(left.display) and "to train on" in "".join(left.display)


def test_an_interrupted_reading_leaves_nothing(tmp_path: Path) -> None:
    """Control-C in the middle of a mailbox: no corpus, no spool, no process."""
    home, box = tmp_path / "home", large_mailbox(tmp_path / "box.mbox")
    process = subprocess.Popen(
        [*BMRT, "learn", str(box), "--into", "box", "--gather-only"],
        env=environment(home),
        stderr=subprocess.PIPE,
        preexec_fn=obey_interrupts,
    )
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        spools = list((home / "learned").glob(".box.*/.spool")) if home.exists() else []
        if spools and spools[0].stat().st_size > 1 << 20:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"interrupted: nothing is kept; the same command begins anew" in said
    assert list((home / "learned").iterdir()) == []
