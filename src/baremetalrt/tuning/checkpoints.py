"""A run as it stands, in one file that is replaced at once: after `kill -9` there is the old or the new.

The file holds the adapter, the optimizer's moments, the state of chance, and what happened so far.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.tuning.resuming import BEST, CHECKPOINT

_KEY: Final = "baremetalrt"


@dataclass
class History:
    """What happened: losses by step, and the best held-out loss so far."""

    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Checkpoints:
    """Reads and writes the state of one run in a folder. `identity` says which run it is."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._folder = folder
        self._identity = json.loads(json.dumps(identity))

    def load(
        self, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> History | None:
        """Takes a run up where it was left; None when there is none of this identity.

        Raises:
            UsageError: what is there is damaged; the hint says what to remove.
        """
        path = self._folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                body = json.loads(file.metadata()[_KEY])
                if body["identity"] != self._identity:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            _restore(parameters, optimizer, tensors)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"the checkpoint of this run is damaged: {error}",
                code="tune.checkpoint",
                hint=f"remove {path.name} to begin anew",
            ) from error
        torch.set_rng_state(tensors["chance"])
        history = History(**body["history"])
        history.losses = [(int(s), float(x)) for s, x in history.losses]
        history.held_out = [(int(s), float(x)) for s, x in history.held_out]
        return history

    def save(
        self,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        history: History,
    ) -> None:
        """Replaces the checkpoint; when this returns, it is on disk."""
        tensors = {"chance": torch.get_rng_state()}
        for name, parameter in parameters.items():
            tensors[f"weight/{name}"] = parameter.detach().cpu()
            for key, value in optimizer.state[parameter].items():
                tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value).cpu()
        body = {"identity": self._identity, "history": asdict(history)}
        with disk_errors():
            write_durably(
                self._folder / CHECKPOINT, save(tensors, metadata={_KEY: json.dumps(body)})
            )

    def save_best(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        """Keeps these weights as the best ones."""
        tensors = {name: p.detach().cpu() for name, p in parameters.items()}
        with disk_errors():
            write_durably(self._folder / BEST, save(tensors))

    def load_best(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        """Puts the best weights back in place."""
        with safe_open(self._folder / BEST, framework="pt") as file, torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(name))


def _restore(
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, torch.Tensor],
) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            prefix, suffix = "optimizer/", f"/{name}"
            optimizer.state[parameter] = {
                key[len(prefix) : -len(suffix)]: tensor.clone()
                for key, tensor in tensors.items()
                if key.startswith(prefix) and key.endswith(suffix)
            }
