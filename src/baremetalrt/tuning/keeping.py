"""Which weights of a run are kept: those that were best by the held-out text, if it can tell. Pure."""

from dataclasses import dataclass
from typing import Final

from baremetalrt.tuning.config import TuneConfig

# The loss of fewer tokens goes up and down by chance alone as much as by what is learned.
MIN_JUDGED_TOKENS: Final = 256


@dataclass(frozen=True)
class Keeping:
    """`keeps_best`: of the best step, and the run ends early when nothing is gained; else of the last."""

    keeps_best: bool
    reason: str


def choose_keeping(config: TuneConfig, num_judged: int) -> Keeping:
    """What `num_judged` tokens of held-out text can decide."""
    if config.keep == "last":
        return Keeping(False, "the last, as asked for")
    if config.epsilon is not None:
        # When to stop, and what to keep, would tell something of the text that decided it.
        return Keeping(False, "the last, because what decides would not be private")
    if not num_judged:
        return Keeping(False, "the last, because nothing is held out to judge by")
    if num_judged < MIN_JUDGED_TOKENS:
        return Keeping(
            False, f"the last, because {num_judged} held-out tokens are too few to judge by"
        )
    return Keeping(True, "the best by the held-out text")
