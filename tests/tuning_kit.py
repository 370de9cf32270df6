"""Runs of the trainer on a tiny model and texts without meaning; also a process that can be killed.

As a program: `python tuning_kit.py FOLDER` tunes in FOLDER to the end and prints the losses as JSON.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from baremetalrt.tuning.checkpoints import Checkpoints, History
from baremetalrt.tuning.config import TuneConfig, TuneProgress
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.pause_switch import PauseSwitch
from baremetalrt.tuning.tokenized import Row
from baremetalrt.tuning.trained_adapter import TrainableAdapter
from baremetalrt.tuning.trainer import Trainer, TrainerConfig
from tiny_models import TinyModel, write

VOCABULARY = 160
LENGTH = 48
CONFIG = TrainerConfig(
    step_rows=4,
    micro_rows=2,
    num_steps=24,
    peak_rate=5e-3,
    seed=3,
    patience=100,
    evaluate_every=3,
    checkpoint_every_s=0.0,
    budget_bytes=1 << 40,
)


def texts(count: int, seed: int) -> list[Row]:
    """Rows in which every token follows from the one before, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    rows = []
    for start in rng.integers(0, VOCABULARY, count):
        tokens = [(int(start) + 7 * i) % VOCABULARY for i in range(LENGTH + 1)]
        rows.append(Row.of(tokens, [True] * len(tokens)))
    return rows


def noise(count: int, seed: int) -> list[Row]:
    """Rows from which nothing can be learned that helps with others."""
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (count, LENGTH + 1)).tolist()
    return [Row.of(row, [True] * len(row)) for row in tokens]


class Run:
    """One run in `folder`; made again with the same folder, it goes on where it was."""

    def __init__(
        self,
        folder: Path,
        config: TrainerConfig = CONFIG,
        *,
        train: list[Row] | None = None,
        held_out: list[Row] | None = None,
        tuning: TuneConfig | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "model.gguf"
        if not path.exists():
            write(TinyModel("llama", weights="Q8_0"), path)
        self.folder = folder
        self.model = TunableModel(path, num_threads=1)
        self.model.set_checkpointing(True)
        torch.manual_seed(config.seed)
        self.adapter = TrainableAdapter(self.model, tuning or TuneConfig(dropout=0.1), 4, "tiny")
        self.trainer = Trainer(
            config,
            self.model,
            self.adapter.parameters,
            texts(30, seed=0) if train is None else train,
            texts(6, seed=1) if held_out is None else held_out,
        )

    def finish(self, on_progress: Callable[[TuneProgress], None] = lambda _: None) -> History:
        checkpoints = Checkpoints(self.folder, {"run": "test"})
        waiting = PauseSwitch(self.folder, on_battery=False)
        try:
            return self.trainer.run(checkpoints, waiting, on_progress)
        finally:
            self.model.close()


def interrupted_after(run: Run, step: int) -> None:
    """Ends a run as an error would, after so many steps."""

    def stop(progress: TuneProgress) -> None:
        if progress.step == step and progress.phase == "training":
            raise KeyboardInterrupt

    try:
        run.finish(stop)
    except KeyboardInterrupt:
        return
    raise AssertionError("the run ended before it could be interrupted")


def main() -> None:
    torch.set_num_threads(1)
    run = Run(Path(sys.argv[1]), replace(CONFIG, num_steps=int(sys.argv[2])))
    print("begun", flush=True)
    history = run.finish()
    sums = {n: p.double().sum().item() for n, p in run.adapter.parameters.items()}
    print(json.dumps({**asdict(history), "weights": sums}), flush=True)


if __name__ == "__main__":
    main()
