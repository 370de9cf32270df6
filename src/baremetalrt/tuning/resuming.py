"""Which run is in a folder: one that was begun and can go on as it was planned, or one that has ended.

Runs are the same when what they do is: by what examples say, by the bytes of the model, by settings;
whatever files are called.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.tuning.config import TuneConfig
from baremetalrt.tuning.examples import HELD_OUT, Example, read_lines, training_examples
from baremetalrt.tuning.memory_plan import MemoryPlan
from baremetalrt.tuning.report import Report
from baremetalrt.weights.content import content_id
from baremetalrt.weights.gguf import GGUFFile

WEIGHTS: Final = "adapter_model.safetensors"
CHECKPOINT: Final = "checkpoint.safetensors"
BEST: Final = "best.safetensors"
_BEGUN: Final = "run.json"
_ENDED: Final = "ended.json"
# Settings that change neither what is learned nor how: a run may go on with others.
_INCIDENTAL: Final = (
    "memory_bytes", "num_threads", "device", "checkpoint_every_s", "waits_on_battery",
    "num_samples", "sample_tokens", "num_checks",
)  # fmt: skip


def identity(config: TuneConfig, corpus_dir: Path, base_file: Path) -> dict[str, Any]:
    """What two runs must share for one to go on with the other; raises like `read_lines`."""
    settings = {k: v for k, v in asdict(config).items() if k not in _INCIDENTAL}
    sides = (training_examples(corpus_dir), read_lines(corpus_dir / HELD_OUT))
    found = {
        "settings": settings,
        "examples": [_digest(examples) for examples in sides],
        "base": content_id(GGUFFile.open(base_file)),
        "torch": version("torch"),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _digest(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        said = example.said.encode("utf-8", "replace")
        digest.update(len(said).to_bytes(8, "little") + said)
    return digest.hexdigest()


class BegunRun:
    """The decisions of the run in a folder, if it is the one that `identity` names."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._path = folder / _BEGUN
        self.identity = identity

    def settings(self, config: TuneConfig) -> TuneConfig:
        """`config` with what was decided when the run was begun; as it is for a new one."""
        begun = _read(self._path)
        if begun.get("identity") != self.identity:
            return config
        plan = begun["plan"]
        return replace(
            config,
            rank=plan["rank"],
            length=plan["length"],
            step_tokens=plan["length"] * plan["step_rows"],
            learning_rate=begun["learning_rate"],
        )

    def require_no_other(self) -> None:
        """Raises:
        UsageError: another run was interrupted here, and what it has learned would be lost.
        """
        begun = _read(self._path).get("identity", self.identity)
        has_ended = _read(self._path.with_name(_ENDED)).get("identity") == begun
        if begun == self.identity or has_ended or not self._path.with_name(CHECKPOINT).exists():
            return
        raise UsageError(
            f"an interrupted run is here, which began with {_difference(begun, self.identity)}",
            code="tune.interrupted",
            hint="the command that began it goes on with it; --replace begins anew",
        )

    def remember(self, plan: MemoryPlan, rate: float) -> None:
        """Writes the decisions down before the first step."""
        body = {"identity": self.identity, "plan": asdict(plan), "learning_rate": rate}
        with disk_errors():
            write_durably(self._path, json.dumps(body).encode())

    def end(self, adapter_dir: Path) -> None:
        """The run is over: its report is written, and its adapter."""
        body = {"identity": self.identity, "adapter": _digest_of(adapter_dir)}
        with disk_errors():
            write_durably(self._path.with_name(_ENDED), json.dumps(body).encode())
        self.forget()

    def forget(self) -> None:
        """Deletes what it would take to go on."""
        # Last what tells whose the rest is.
        for name in (BEST, CHECKPOINT, _BEGUN):
            self._path.with_name(name).unlink(missing_ok=True)


def ended_run(
    config: TuneConfig, corpus_dir: Path, base_file: Path, adapter_dir: Path
) -> Report | None:
    """The report of this very run, if it has ended and its adapter is there as it left it."""
    ended = _read(corpus_dir / _ENDED)
    wanted = identity(config, corpus_dir, base_file)
    # Another PyTorch would learn something else by a hair: no reason to learn again.
    if {**ended.get("identity", {}), "torch": ""} != {**wanted, "torch": ""}:
        return None
    if ended.get("adapter") != _digest_of(adapter_dir):
        return None
    return Report.load(corpus_dir)


def has_run(corpus_dir: Path) -> bool:
    """Whether a run was begun or has ended in a folder, so that an adapter may be its own."""
    return any((corpus_dir / name).exists() for name in (_BEGUN, _ENDED))


def _digest_of(adapter_dir: Path) -> str:
    try:
        with (adapter_dir / WEIGHTS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _difference(begun: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first thing in which two runs differ, for people."""
    for key, value in begun.get("settings", {}).items():
        if value != wanted["settings"].get(key):
            return f"{key} {value} and not {wanted['settings'].get(key)}"
    names = {"examples": "other examples", "base": "another model", "torch": "another PyTorch"}
    return next((text for key, text in names.items() if begun.get(key) != wanted[key]), "others")


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
