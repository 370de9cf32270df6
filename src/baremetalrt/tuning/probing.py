"""A few steps with each of some learning rates, to choose one: from the same start, on the same rows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch

from baremetalrt.tuning.evaluation import held_out_loss
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.tokenized import Row
from baremetalrt.tuning.trainer import Trainer, TrainerConfig, make_optimizer

# DoRA and rank-stabilized adapters like the same range.
RATES: Final = (1e-4, 4e-4, 1.6e-3)
_STEPS: Final = 4
_ROWS: Final = 8
# What learns fastest in four steps learns too fast for hundreds.
_CAUTION: Final = 0.5
# With fewer steps than this a probe would take longer than what it is for.
MIN_STEPS: Final = 40
UNPROBED_RATE: Final = 4e-4


def probe_rate(
    config: TrainerConfig,
    model: TunableModel,
    parameters: dict[str, torch.nn.Parameter],
    train: Sequence[Row],
    held_out: Sequence[Row],
    on_rate: Callable[[float, float], None],
) -> float:
    """Half of the rate that helped most; `on_rate` hears of each rate and the loss it led to."""
    start = {name: p.detach().clone() for name, p in parameters.items()}
    judged = held_out[:_ROWS]
    losses = {}
    for rate in RATES:
        torch.manual_seed(config.seed)
        # A long run stays near its peak for the first steps; so does this.
        probe = replace(config, num_steps=_STEPS, peak_rate=rate)
        trainer = Trainer(probe, model, parameters, train, judged)
        optimizer = make_optimizer(parameters)
        for step in range(_STEPS):
            trainer.step(optimizer, step)
        losses[rate] = held_out_loss(model, judged, config.micro_rows).per_token
        on_rate(rate, losses[rate])
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(start[name])
    best = min(losses, key=lambda rate: losses[rate])
    return best * _CAUTION
