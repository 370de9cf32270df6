"""How a model learns: each option is chosen from memory, data and a short probe unless it is given."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from baremetalrt.cli.options import SIZE
from baremetalrt.tuning.config import Kept, Method
from baremetalrt.tuning.config import TuneConfig as TuneConfig

_OPTIONS = (
    click.option(
        "--method",
        type=click.Choice(["lora", "rslora", "dora"]),
        default="lora",
        show_default=True,
    ),
    click.option("--rank", type=click.IntRange(1, 512), help="Of the adapter."),
    click.option("--alpha", type=float, help="Its scale.  [default: twice the rank]"),
    click.option("--dropout", type=click.FloatRange(0, 0.9), default=0.0),
    click.option(
        "--targets",
        metavar="NAMES",
        help="What is adapted: q_proj,v_proj or a pattern.  [default: all linear layers]",
    ),
    click.option(
        "--length", type=click.IntRange(16, 1 << 17), help="Tokens that are seen at once."
    ),
    click.option(
        "--step-tokens", type=click.IntRange(1), metavar="TOKENS", help="Tokens per step."
    ),
    click.option("--rate", "learning_rate", type=float, help="The learning rate."),
    click.option(
        "--epochs",
        type=click.FloatRange(0, min_open=True),
        default=3.0,
        show_default=True,
        help="How often each example is seen, at most.",
    ),
    click.option("--max-steps", type=click.IntRange(1)),
    click.option(
        "--patience",
        type=click.IntRange(1),
        default=3,
        show_default=True,
        help="Stop after so many evaluations without gain.",
    ),
    click.option(
        "--keep",
        type=click.Choice(["best", "last"]),
        default="best",
        show_default=True,
        help="Which weights: those of the step that was best by the held-out text, or, after all steps, "
        "the last. Where less than 256 tokens are held out, it is always the last.",
    ),
    click.option(
        "--samples",
        "num_samples",
        type=click.IntRange(0, 32),
        default=2,
        show_default=True,
        help="How many answers of before and after the report shows.",
    ),
    click.option(
        "--sample-tokens",
        type=click.IntRange(1, 1024),
        default=48,
        show_default=True,
        help="How long each of them may be.",
    ),
    click.option(
        "--check",
        "num_checks",
        type=click.IntRange(0, 100),
        default=3,
        show_default=True,
        metavar="N",
        help="Ask about N passages that were trained on and N that were held out, before and after, for "
        "the report: some 2000 tokens each. 0: ask nothing.",
    ),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--memory", type=SIZE, metavar="SIZE", help="Memory that may be used."),
    click.option(
        "--threads",
        "num_threads",
        type=click.IntRange(1, 512),
        help="Compute threads.  [default: physical cores]",
    ),
    click.option(
        "--torch-device",
        "device",
        default="cpu",
        show_default=True,
        help="cpu, cuda, mps or xpu, where PyTorch has it.",
    ),
    click.option(
        "--epsilon",
        type=click.FloatRange(0, min_open=True),
        help="Differential privacy of each row, at this price.  [default: none]",
    ),
    click.option("--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True)),
    click.option("--on-battery", is_flag=True, help="Do not wait for mains power."),
)


def tuning_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options; the command is given them as `tuning`."""

    @wraps(command)
    def parsed(
        *given: Any,
        method: Method,
        rank: int | None,
        alpha: float | None,
        dropout: float,
        targets: str | None,
        length: int | None,
        step_tokens: int | None,
        learning_rate: float | None,
        epochs: float,
        max_steps: int | None,
        patience: int,
        keep: Kept,
        num_samples: int,
        sample_tokens: int,
        num_checks: int,
        seed: int,
        memory: int | None,
        num_threads: int | None,
        device: str,
        epsilon: float | None,
        delta: float | None,
        on_battery: bool,
        **others: Any,
    ) -> None:
        tuning = TuneConfig(
            method=method,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            targets=targets,
            length=length,
            step_tokens=step_tokens,
            learning_rate=learning_rate,
            epochs=epochs,
            max_steps=max_steps,
            patience=patience,
            keep=keep,
            num_samples=num_samples,
            sample_tokens=sample_tokens,
            num_checks=num_checks,
            seed=seed,
            memory_bytes=memory,
            num_threads=num_threads,
            device=device,
            epsilon=epsilon,
            delta=delta,
            waits_on_battery=not on_battery,
        )
        command(*given, tuning=tuning, **others)

    for option in reversed(_OPTIONS):
        parsed = option(parsed)
    return parsed
