"""Differential privacy of tuning: what a row can do is bounded, noise hides it, and both are counted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baremetalrt.tuning.privacy import NoisySum, Privacy
from tuning_kit import CONFIG, Run


def privacy(**changes: float) -> Privacy:
    values = {"noise_multiplier": 0.0, "sample_rate": 1.0, "num_rows": 4, "delta": 1e-5}
    return Privacy(**{**values, **changes})


def test_no_row_says_more_than_the_bound() -> None:
    """A gradient a thousand times too long counts like one that just fits; a short one counts whole."""
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    noisy = NoisySum(privacy(), parameters)
    for scale, expected in ((1000.0, 1.0), (0.1, 0.1)):
        parameters[0].grad = scale * torch.tensor([0.6, 0.0, 0.0])
        parameters[1].grad = scale * torch.tensor([0.0, 0.8])
        noisy.add()
        noisy.release()
        assert parameters[0].grad.tolist() == pytest.approx([expected * 0.6 / 4, 0, 0], rel=1e-4)
        assert parameters[1].grad.tolist() == pytest.approx([0, expected * 0.8 / 4], rel=1e-4)


def test_the_noise_is_as_large_as_it_should_be() -> None:
    """Its deviation is multiplier times bound, over the rows that a step expects."""
    parameters = [torch.nn.Parameter(torch.zeros(100_000))]
    noisy = NoisySum(privacy(noise_multiplier=3.0, sample_rate=0.5), parameters)
    noisy.release()
    assert float(parameters[0].grad.std()) == pytest.approx(3.0 / 2, rel=0.02)


def test_rows_are_drawn_one_by_one() -> None:
    """Each by its own coin: the number of rows in a step is not fixed."""
    noisy = NoisySum(privacy(sample_rate=0.1, num_rows=1000), [])
    sizes = [len(noisy.draw()) for _ in range(20)]
    assert len(set(sizes)) > 3
    assert 60 < sum(sizes) / len(sizes) < 140


@pytest.mark.filterwarnings("ignore:Optimal order")
def test_what_is_spent_is_what_was_allowed() -> None:
    """The noise that is chosen keeps to the price, and hardly adds more than it must."""
    chosen = Privacy.for_target(3.0, None, num_rows=2000, step_rows=16, num_steps=300)
    assert 2.5 < chosen.spent(300) <= 3.01
    assert chosen.spent(100) < chosen.spent(300)
    assert "epsilon" in chosen.state(300, 512) and "5.0e-05" not in chosen.state(300, 512)


def test_a_private_run_is_not_steered_by_what_it_must_hide(tmp_path: Path) -> None:
    """It takes every step, keeps the last weights, and no seed repeats its noise."""
    torch.set_num_threads(1)
    weights = []
    for i in range(2):
        config = replace(
            CONFIG,
            num_steps=6,
            keeps_best=False,
            privacy=privacy(num_rows=30, noise_multiplier=1.0),
        )
        run = Run(tmp_path / str(i), config)
        assert run.finish().step == 6
        weights.append(torch.cat([p.flatten() for p in run.adapter.parameters.values()]))
    assert not torch.equal(weights[0], weights[1])
