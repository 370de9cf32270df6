"""The loop of tuning: it learns, repeats itself, stops in time, steps aside, and keeps to its budget."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.tuning.checkpoints import Checkpoints
from baremetalrt.tuning.config import TuneProgress
from baremetalrt.tuning.probing import RATES, probe_rate
from baremetalrt.tuning.schedule import learning_rate, rows_of_step
from baremetalrt.tuning.trainer import make_optimizer
from tuning_kit import CONFIG, Run, interrupted_after, noise, texts


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_held_out_loss_falls_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    """Rows of one rule teach the rule; what is left in place is what was best."""
    run = Run(tmp_path)
    history = run.finish()
    first, best = history.held_out[0][1], history.best_loss
    assert best is not None and best < 0.9 * first
    assert best == min(loss for _, loss in history.held_out)


def test_the_same_seed_gives_the_same_losses(tmp_path: Path) -> None:
    """To the last bit, dropout included; another seed gives others."""
    losses = [Run(tmp_path / str(i)).finish().losses for i in range(2)]
    other = Run(tmp_path / "other", replace(CONFIG, seed=4)).finish().losses
    assert losses[0] == losses[1] != other


@pytest.mark.parametrize("step", [1, 7, 23])
def test_a_resumed_run_equals_an_uninterrupted_one(step: int, tmp_path: Path) -> None:
    """Losses and weights, to the last bit, wherever it was interrupted."""
    whole = Run(tmp_path / "whole")
    expected = whole.finish()
    interrupted_after(Run(tmp_path / "cut"), step)
    resumed = Run(tmp_path / "cut")
    history = resumed.finish()
    assert history.losses == expected.losses
    assert history.held_out == expected.held_out
    for name, parameter in whole.adapter.parameters.items():
        assert torch.equal(parameter, resumed.adapter.parameters[name])


def test_a_checkpoint_of_another_run_is_left_alone(tmp_path: Path) -> None:
    """Other data or settings make it another run."""
    interrupted_after(Run(tmp_path), 5)
    run = Run(tmp_path)
    optimizer = make_optimizer(run.adapter.parameters)
    assert Checkpoints(tmp_path, {"run": "other"}).load(run.adapter.parameters, optimizer) is None
    assert Checkpoints(tmp_path, {"run": "test"}).load(run.adapter.parameters, optimizer)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """It is not silently thrown away: it may stand for a night of work."""
    interrupted_after(Run(tmp_path), 5)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="checkpoint") as caught:
        Run(tmp_path).finish()
    assert caught.value.code == "tune.checkpoint"


def test_it_stops_when_nothing_is_gained(tmp_path: Path) -> None:
    """Learning noise by heart helps with no other noise."""
    config = replace(CONFIG, num_steps=200, patience=2, peak_rate=2e-2)
    run = Run(tmp_path, config, train=noise(8, seed=0), held_out=noise(8, seed=1))
    history = run.finish()
    assert history.step < 200
    assert history.evaluations_without_gain == 2
    assert history.best_step == history.held_out[-3][0]


def test_the_last_weights_are_kept_where_nothing_can_decide(tmp_path: Path) -> None:
    """All steps are done, though an earlier one was best; without held-out text, nothing is judged."""
    config = replace(CONFIG, num_steps=40, patience=1, peak_rate=2e-2, keeps_best=False)
    weights = []
    for name, judged in (("judged", noise(8, seed=1)), ("not", [])):
        run = Run(tmp_path / name, config, train=noise(8, seed=0), held_out=judged)
        history = run.finish()
        assert history.step == 40
        assert bool(history.held_out) == bool(judged)
        assert not judged or history.best_step < 40
        weights.append(torch.cat([p.flatten() for p in run.adapter.parameters.values()]))
    assert torch.equal(*weights)


def test_progress_says_what_is_saved_and_what_is_left(tmp_path: Path) -> None:
    """After a kill it goes on from what was saved; until the report is written, something is left."""
    seen: list[TuneProgress] = []
    config = replace(CONFIG, num_steps=6, checkpoint_every_s=1e9, closing_tokens=10**6)
    Run(tmp_path, config).finish(seen.append)
    training = [p for p in seen if p.phase == "training"]
    assert [p.saved_step for p in training] == [0, 0, 0, 3, 3, 3]
    assert all(p.left_s is not None and p.left_s > 0 for p in training)


def test_it_waits_while_the_switch_is_there(tmp_path: Path) -> None:
    """A file called `pause` stops the computing, and taking it away lets it go on."""
    switch = tmp_path / "pause"
    seen: list[TuneProgress] = []

    def on_progress(progress: TuneProgress) -> None:
        seen.append(progress)
        if progress.phase == "training" and progress.step == 2:
            switch.touch()
        if progress.phase == "paused":
            threading.Timer(0.2, switch.unlink).start()

    run = Run(tmp_path, replace(CONFIG, num_steps=3))
    started = time.monotonic()
    assert run.finish(on_progress).step == 3
    assert [p.step for p in seen if p.phase == "paused"] == [2]
    assert time.monotonic() - started > 0.2


def test_a_budget_that_cannot_be_kept_ends_the_run(tmp_path: Path) -> None:
    """Fewer rows at once first; with one row left, an error says how much is missing."""
    run = Run(tmp_path, replace(CONFIG, budget_bytes=1 << 20))
    with pytest.raises(CapacityError) as caught:
        run.finish()
    assert caught.value.code == "tune.memory"


def test_fewer_rows_at_once_change_nothing_but_rounding(tmp_path: Path) -> None:
    """A step is a step however it is cut."""
    losses = []
    for micro_rows in (1, 4):
        config = replace(CONFIG, micro_rows=micro_rows, num_steps=6)
        run = Run(tmp_path / str(micro_rows), config, tuning=None)
        run.adapter.peft.eval()
        losses.append([loss for _, loss in _without_dropout(run).losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def _without_dropout(run: Run):
    for module in run.model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return run.finish()


def test_the_probe_tells_rates_apart_and_leaves_no_trace(tmp_path: Path) -> None:
    """Half of the rate that helps most; weights are afterwards what they were before."""
    run = Run(tmp_path)
    before = {n: p.detach().clone() for n, p in run.adapter.parameters.items()}
    heard: dict[float, float] = {}
    rate = probe_rate(
        CONFIG, run.model, run.adapter.parameters, texts(30, 0), texts(6, 1), heard.__setitem__
    )
    assert set(heard) == set(RATES)
    assert rate == 0.5 * min(heard, key=lambda r: heard[r])
    for name, parameter in run.adapter.parameters.items():
        assert torch.equal(parameter, before[name])
    run.model.close()


def test_every_row_is_seen_once_per_epoch() -> None:
    """In another order each time."""
    seen = [i for step in range(10) for i in rows_of_step(step, 3, 15, seed=0)]
    assert sorted(seen[:15]) == sorted(seen[15:]) == list(range(15))
    assert seen[:15] != seen[15:]


def test_the_rate_rises_and_falls() -> None:
    """To its peak early on, and to a tenth of it in the end."""
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert max(rates) == rates[4] == pytest.approx(1.0)
    assert rates[0] < 0.3
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
