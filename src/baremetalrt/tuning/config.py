"""What a run is asked to do, and what came of it to show while it runs. No PyTorch here."""

from dataclasses import dataclass
from typing import Final, Literal

Method = Literal["lora", "rslora", "dora"]
# Which weights are kept: those of the step that was best by the held-out text, or of the last one.
Kept = Literal["best", "last"]
METHODS: Final[tuple[Method, ...]] = ("lora", "rslora", "dora")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How to tune. None means: choose from memory, data, and a short probe.

    `targets` is a list of module names (`q_proj,v_proj`) or a regular expression over full names.
    `step_tokens` are looked at before the adapter changes once; `length` bounds one row of them.
    """

    method: Method = "lora"
    rank: int | None = None
    alpha: float | None = None
    dropout: float = 0.0
    targets: str | None = None
    length: int | None = None
    step_tokens: int | None = None
    learning_rate: float | None = None
    epochs: float = 3.0
    max_steps: int | None = None
    evaluate_every: int | None = None
    patience: int = 3
    keep: Kept = "best"
    seed: int = 0
    memory_bytes: int | None = None
    num_threads: int | None = None
    device: str = "cpu"
    checkpoint_every_s: float = 60.0
    waits_on_battery: bool = True
    # Differential privacy, where it is asked for: what may be spent on each row.
    epsilon: float | None = None
    delta: float | None = None
    num_samples: int = 2
    sample_tokens: int = 48
    # Questions that are asked before and after, of what was trained on and of what was held out.
    num_checks: int = 3


Phase = Literal["measuring", "probing", "training", "evaluating", "paused", "reporting", "asking"]


@dataclass(frozen=True, kw_only=True)
class TuneProgress:
    """Where a run is. Losses are nats per token; `left_s` is None until there is something to go by, and
    counts what comes after the last step, too. `saved_step`: after a kill, it goes on from there."""

    phase: Phase
    step: int
    num_steps: int
    loss: float | None = None
    held_out_loss: float | None = None
    best_loss: float | None = None
    tokens_per_s: float | None = None
    left_s: float | None = None
    saved_step: int | None = None
    note: str = ""
