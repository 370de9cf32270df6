"""What an interrupted run had decided, so that it goes on with the same plan and learning rate."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch

from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.tuning.config import TuneConfig
from baremetalrt.tuning.examples import HELD_OUT, TRAIN, read_bytes
from baremetalrt.tuning.memory_plan import MemoryPlan

_NAME: Final = "run.json"
# Settings that change neither what is learned nor how: a run may go on with others.
_INCIDENTAL: Final = (
    "memory_bytes", "num_threads", "device", "checkpoint_every_s", "waits_on_battery",
    "num_samples", "sample_tokens",
)  # fmt: skip


def identity(config: TuneConfig, corpus_dir: Path, base_file: Path) -> dict[str, Any]:
    """What two runs must share for one to go on with the other; raises like `read_lines`."""
    settings = {k: v for k, v in asdict(config).items() if k not in _INCIDENTAL}
    digests = [
        hashlib.sha256(read_bytes(corpus_dir / name)).hexdigest() for name in (TRAIN, HELD_OUT)
    ]
    base = [base_file.name, base_file.stat().st_size]
    return {"settings": settings, "examples": digests, "base": base, "torch": torch.__version__}


class BegunRun:
    """The decisions of the run in a folder, if it is the one that `identity` names."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._path = folder / _NAME
        self.identity = json.loads(json.dumps(identity))

    def settings(self, config: TuneConfig) -> TuneConfig:
        """`config` with what was decided when the run was begun; as it is for a new one."""
        try:
            begun = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return config
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

    def remember(self, plan: MemoryPlan, rate: float) -> None:
        """Writes the decisions down before the first step."""
        body = {"identity": self.identity, "plan": asdict(plan), "learning_rate": rate}
        with disk_errors():
            write_durably(self._path, json.dumps(body).encode())

    def forget(self) -> None:
        """The run is over."""
        self._path.unlink(missing_ok=True)
