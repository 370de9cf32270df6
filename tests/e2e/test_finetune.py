"""`bmrt finetune` as a user starts it, on the embedded model."""

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from baremetalrt.core.installation import how_to_add
from commands import BMRT, bmrt, environment

FACTS = (
    "The lighthouse of Brenna was built in 1903 by Olaf Rasmussen, a carpenter from the next bay.\n\n"
    "Its lamp burns rapeseed oil, and its keeper climbs two hundred and eleven steps every evening.\n\n"
    "In winter the road to Brenna is closed, and the keeper is paid in coffee, salt and candles.\n\n"
)
# Ends the process as soon as anything in it looks up a name or opens a connection; says in the end how
# much memory it ever had resident.
WATCHED = """
import os, sys
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        os.write(2, f"{event} {arguments}".encode())
        os._exit(99)
sys.addaudithook(watch)
from baremetalrt.core.installation import how_to_add
from baremetalrt.cli.main import main
try:
    main()
finally:
    status = open("/proc/self/status").read() if sys.platform == "linux" else "VmHWM: 0 kB"
    print("peak", status.partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""
# Builds of PyTorch for graphics cards hold 350 MB more before anything is computed.
MEMORY_BYTES = 1_300_000_000 + (400_000_000 if torch.version.cuda else 0)
QUICK = (
    "--rate",
    "0.002",
    "--rank",
    "4",
    "--epochs",
    "8",
    "--on-battery",
    "--check",
    "0",
    "--json",
    "--memory",
    f"{MEMORY_BYTES}B",
)


def tune(home: Path, *arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "finetune", *arguments, *QUICK],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment(home),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) * 1024 <= MEMORY_BYTES
    report: dict[str, object] = json.loads(done.stdout)
    return report


def private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) in (0o600, 0o700)


def test_text_teaches_and_everything_stays_private(tmp_path: Path) -> None:
    """Held-out loss falls, memory suffices, nothing is sent, and what is written is the owner's alone."""
    text, lines = tmp_path / "facts.txt", tmp_path / "more.jsonl"
    text.write_text(FACTS)
    lines.write_text(5 * (json.dumps({"text": FACTS}) + "\n"))
    report = tune(
        tmp_path,
        *(str(text), str(lines), "--into", "brenna", "--length", "64"),
        *("--step-tokens", "128", "--max-steps", "6", "--samples", "0"),
    )
    held_out = report["held_out_perplexity"]
    assert held_out["after"] < 0.8 * held_out["before"]
    assert report["privacy"] == "not differentially private"

    run, adapter = tmp_path / "learned" / "brenna", tmp_path / "adapters" / "brenna"
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "report.json").read_text())["held_out_perplexity"] == held_out
    assert not list(run.glob("*.safetensors"))
    for path in (run, adapter, *run.iterdir(), *adapter.iterdir()):
        assert private(path), path
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert not [v for v in config.values() if isinstance(v, str) and v.startswith("/")]
    assert str(tmp_path) not in (adapter / "adapter_config.json").read_text()
    with safe_open(adapter / "adapter_model.safetensors", framework="np") as file:
        names = list(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert len(names) == 30 * 7 * 2


@pytest.mark.slow
def test_questions_and_answers_teach(tmp_path: Path) -> None:
    """Prompts with completions, by the model's own chat template; the answer changes."""
    lines = [
        json.dumps({"prompt": question, "completion": "It was Olaf Rasmussen of Brenna."})
        for question in (f"Who built lighthouse number {i}?" for i in range(24))
    ]
    examples = tmp_path / "examples.jsonl"
    examples.write_text("\n".join(lines))
    report = tune(tmp_path, str(examples), "--into", "qa", "--step-tokens", "256")
    assert report["held_out_perplexity"]["after"] < 1.5
    assert "Olaf Rasmussen" in report["samples"][0]["after"]
    assert "Olaf Rasmussen" not in report["samples"][0]["before"]


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    """The same command again: the same losses as if nobody had killed it, chosen settings included."""
    lines = tmp_path / "facts.jsonl"
    lines.write_text(12 * (json.dumps({"text": FACTS}) + "\n"))
    arguments = (str(lines), "--into", "x", "--length", "64", "--max-steps", "6")
    reports = []
    for name in ("whole", "killed"):
        home = tmp_path / name
        if name == "killed":
            checkpoint = home / "learned" / "x" / "checkpoint.safetensors"
            process = subprocess.Popen(
                [*BMRT, "finetune", *arguments, *QUICK],
                env=environment(home),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            first = None
            while process.poll() is None:
                time.sleep(0.05)
                seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
                first = first or seen
                if seen != first:  # a step is in it
                    process.kill()
            process.wait()
            assert checkpoint.exists()
        reports.append(tune(home, *arguments))
    for key in ("losses", "held_out_losses", "held_out_perplexity", "best_step"):
        assert reports[0][key] == reports[1][key], key


def run_python(code: str, home: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(home),
    )


def test_without_the_extra_one_line_says_what_to_type(tmp_path: Path) -> None:
    """No trace, one error, one hint with one command."""
    text = tmp_path / "facts.txt"
    text.write_text(FACTS)
    code = (
        "import sys; sys.modules['torch'] = None; from baremetalrt.cli.main import main;"
        f"sys.argv = ['bmrt', 'finetune', {str(text)!r}, '--into', 'x']; main()"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: fine-tuning needs torch, which is not installed",
        f"hint: {how_to_add('learn', 'tune')}",
    ]
    assert not (tmp_path / "learned").exists()


def test_an_answer_needs_no_pytorch(tmp_path: Path) -> None:
    """`bmrt run` imports neither PyTorch nor what stands on it."""
    code = (
        "import sys; from baremetalrt.cli import main as m;"
        "sys.argv = ['bmrt', 'run', 'Hi', '-n', '1'];\n"
        "try: m.main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)))"
    )
    done = run_python(code, tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["../up", "", "a/b", "-x" * 40])
def test_names_cannot_leave_their_folder(name: str, tmp_path: Path) -> None:
    """The name of an adapter is no path."""
    text = tmp_path / "facts.txt"
    text.write_text(FACTS)
    done = bmrt("finetune", str(text), "--into", name, home=tmp_path)
    assert done.returncode == 2
    assert "an adapter cannot be called" in done.stderr
