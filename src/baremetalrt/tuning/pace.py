"""How long a run still takes, by what its parts have taken so far. Pure."""

from dataclasses import dataclass
from typing import Final

# A step goes forward and back, and computes some of it again; judging only goes forward.
_STEP_OVER_FORWARD: Final = 3.0


@dataclass
class Pace:
    """Tokens and seconds of steps and of judging, as they were measured by this process or before it."""

    step_tokens: int = 0
    step_s: float = 0.0
    judged_tokens: int = 0
    judged_s: float = 0.0

    def left_s(self, *, step_tokens: float, judged_tokens: float) -> float | None:
        """Seconds for so many tokens of steps, and of judging; None until a step was taken."""
        if not self.step_tokens or not self.step_s:
            return None
        per_step_token = self.step_s / self.step_tokens
        per_judged_token = per_step_token / _STEP_OVER_FORWARD
        if self.judged_tokens and self.judged_s:
            per_judged_token = self.judged_s / self.judged_tokens
        return step_tokens * per_step_token + judged_tokens * per_judged_token
