"""The loop: steps, evaluations, checkpoints, pauses. Rows in, the best or the last adapter out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psutil
import torch

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.units import format_bytes
from baremetalrt.tuning.checkpoints import Checkpoints, History
from baremetalrt.tuning.config import Phase, TuneProgress
from baremetalrt.tuning.evaluation import batches, held_out_loss
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.pace import Pace
from baremetalrt.tuning.pause_switch import PauseSwitch
from baremetalrt.tuning.privacy import NoisySum, Privacy
from baremetalrt.tuning.schedule import evaluates_after, learning_rate, rows_of_step
from baremetalrt.tuning.tokenized import Row

_MAX_NORM: Final = 1.0
_BETAS: Final = (0.9, 0.99)
OnProgress = Callable[[TuneProgress], None]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """One run, with everything decided. `budget_bytes` bounds resident memory while it runs.

    `keeps_best`: the weights of the best step are kept, and the run ends when nothing is gained any more.
    `closing_tokens` are read when all steps are done.
    """

    step_rows: int
    micro_rows: int
    num_steps: int
    peak_rate: float
    seed: int
    patience: int
    evaluate_every: int | None
    checkpoint_every_s: float
    budget_bytes: int
    keeps_best: bool = True
    closing_tokens: int = 0
    privacy: Privacy | None = None


class Trainer:
    """Changes `parameters` of `model` until the held-out loss no longer falls."""

    def __init__(
        self,
        config: TrainerConfig,
        model: TunableModel,
        parameters: dict[str, torch.nn.Parameter],
        train: Sequence[Row],
        held_out: Sequence[Row],
    ) -> None:
        self._config = config
        self._model = model
        self._parameters = parameters
        self._train, self._held_out = train, held_out
        self._micro_rows = config.micro_rows
        self._noisy = (
            None if config.privacy is None else NoisySum(config.privacy, parameters.values())
        )
        self.history = History()
        self._judged = Pace()
        self._saved_step: int | None = None

    def run(
        self, checkpoints: Checkpoints, waiting: PauseSwitch, on_progress: OnProgress
    ) -> History:
        """Goes on from the checkpoint if there is one; leaves the weights that are kept in place.

        Raises:
            CapacityError: the smallest batch needs more memory than the budget, or the disk is full.
        """
        config = self._config
        torch.manual_seed(config.seed)
        optimizer = make_optimizer(self._parameters)
        found = checkpoints.load(self._parameters, optimizer)
        h = self.history = found or History()
        saved_at = time.monotonic()
        if found is None:
            self._evaluate(checkpoints, on_progress)
            checkpoints.save(self._parameters, optimizer, h)
        self._saved_step = h.step
        while h.step < config.num_steps and not self._is_over():
            waiting.wait(lambda reason: self._tell(on_progress, "paused", reason))
            started = time.monotonic()
            loss, num_tokens = self.step(optimizer, h.step)
            h.step += 1
            h.losses.append((h.step, loss))
            h.tokens += num_tokens
            h.seconds += time.monotonic() - started
            self._tell(on_progress, "training")
            is_due = evaluates_after(h.step, config.num_steps, config.evaluate_every)
            if is_due:
                self._evaluate(checkpoints, on_progress)
            if is_due or time.monotonic() - saved_at >= config.checkpoint_every_s:
                checkpoints.save(self._parameters, optimizer, h)
                self._saved_step, saved_at = h.step, time.monotonic()
        if config.keeps_best:
            checkpoints.load_best(self._parameters)
        return h

    def _is_over(self) -> bool:
        gainless = self.history.evaluations_without_gain
        return self._config.keeps_best and gainless >= self._config.patience

    def step(self, optimizer: torch.optim.Optimizer, step: int) -> tuple[float, int]:
        """One change of the adapter; returns the loss before it and how many tokens were looked at."""
        if self._noisy is not None:
            return self._private_step(self._noisy, optimizer, step)
        config = self._config
        chosen = rows_of_step(step, config.step_rows, len(self._train), config.seed)
        # Rows of like length together: less to fill up.
        rows = sorted((self._train[i] for i in chosen), key=lambda row: len(row.ids))
        num_labels = sum(row.num_labels for row in rows)
        optimizer.zero_grad(set_to_none=False)
        self._model.network.train()
        total, done = 0.0, 0
        while done < len(rows):
            some = rows[done : done + self._micro_rows]
            done += len(some)
            ((ids, labels),) = batches(some, len(some))
            losses = self._model.token_losses(
                ids.to(self._model.device), labels.to(self._model.device)
            )
            loss = losses.sum() / num_labels
            loss.backward()
            total += loss.item()
            self._keep_to_budget()
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), _MAX_NORM)
        self._change(optimizer, step)
        return total, sum(len(row.ids) for row in rows)

    def _private_step(
        self, noisy: NoisySum, optimizer: torch.optim.Optimizer, step: int
    ) -> tuple[float, int]:
        """The same with rows one by one, each bounded in what it says, and noise upon their sum."""
        optimizer.zero_grad(set_to_none=False)
        self._model.network.train()
        rows = [self._train[i] for i in noisy.draw()]
        total = 0.0
        for row in rows:
            ((ids, labels),) = batches([row], 1)
            device = self._model.device
            loss = self._model.token_losses(ids.to(device), labels.to(device)).mean()
            loss.backward()
            noisy.add()
            total += loss.item()
            self._keep_to_budget()
        noisy.release()
        self._change(optimizer, step)
        return total / max(1, len(rows)), sum(len(row.ids) for row in rows)

    def _change(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        config = self._config
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.num_steps, config.peak_rate)
        optimizer.step()

    def _evaluate(self, checkpoints: Checkpoints, on_progress: OnProgress) -> None:
        if not self._held_out:
            return
        self._tell(on_progress, "evaluating")
        h = self.history
        started = time.monotonic()
        loss = held_out_loss(self._model, self._held_out, self._micro_rows).per_token
        self._judged.judged_s += time.monotonic() - started
        self._judged.judged_tokens += self._num_judged
        h.held_out.append((h.step, loss))
        if h.best_loss is None or loss < h.best_loss:
            h.best_loss, h.best_step, h.evaluations_without_gain = loss, h.step, 0
            if self._config.keeps_best:
                checkpoints.save_best(self._parameters)
        else:
            h.evaluations_without_gain += 1
        self._tell(on_progress, "evaluating")

    @property
    def _num_judged(self) -> int:
        return sum(len(row.ids) for row in self._held_out)

    def _left_s(self) -> float | None:
        """Until everything is done, if the run does not end early."""
        config, h = self._config, self.history
        pace = replace(self._judged, step_tokens=h.tokens, step_s=h.seconds)
        steps = range(h.step + 1, config.num_steps + 1)
        evaluations = sum(
            evaluates_after(step, config.num_steps, config.evaluate_every) for step in steps
        )
        return pace.left_s(
            step_tokens=len(steps) * h.tokens / max(1, h.step),
            judged_tokens=evaluations * self._num_judged + config.closing_tokens,
        )

    def _keep_to_budget(self) -> None:
        """Takes fewer rows at once when memory runs out, and gives up when there is but one."""
        resident, budget = psutil.Process().memory_info().rss, self._config.budget_bytes
        if resident <= budget:
            return
        if self._micro_rows > 1:
            self._micro_rows //= 2
            return
        raise CapacityError(
            f"tuning takes {format_bytes(resident)}, {format_bytes(budget)} may be used",
            code="tune.memory",
            needed=resident,
            available=budget,
            hint="run again with a smaller --length or more --memory; what was learned is kept",
        )

    def _tell(self, on_progress: OnProgress, phase: Phase, note: str = "") -> None:
        h = self.history
        rate = h.tokens / h.seconds if h.seconds else None
        on_progress(
            TuneProgress(
                phase=phase,
                step=h.step,
                num_steps=self._config.num_steps,
                loss=h.losses[-1][1] if h.losses else None,
                held_out_loss=h.held_out[-1][1] if h.held_out else None,
                best_loss=h.best_loss,
                tokens_per_s=rate,
                left_s=self._left_s(),
                saved_step=self._saved_step,
                note=note,
            )
        )


def make_optimizer(parameters: dict[str, torch.nn.Parameter]) -> torch.optim.AdamW:
    """AdamW; the rate is set anew before every step.

    Gradients and moments are made now, in one place. Made while a step runs, they would come to lie
    between its large temporaries, and the heap could not shrink again: 350 MB with a 135M model.
    """
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.0, betas=_BETAS, weight_decay=0.0)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for state in optimizer.state.values():
        state["step"].zero_()
    return optimizer
