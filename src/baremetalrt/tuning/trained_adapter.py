"""The adapter of a model: attached by `peft`, saved in its form without a path of this machine in it."""

import json
from pathlib import Path
from typing import Any, Final

import peft
import psutil
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save

from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.units import MIB, round_up
from baremetalrt.tuning.config import TuneConfig
from baremetalrt.tuning.linear import QuantizedLinear
from baremetalrt.tuning.memory_plan import Footprint
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.resuming import WEIGHTS
from baremetalrt.tuning.targets import bad_targets, parse_targets

# Plans are to be the same the next time, though what is resident differs by a little.
_RUNTIME_STEP_BYTES: Final = 64 * MIB


class TrainableAdapter:
    """Low-rank weights on a model. `parameters` are all that a run changes."""

    def __init__(self, model: TunableModel, config: TuneConfig, rank: int, base_name: str) -> None:
        """Attaches a fresh adapter, which changes nothing until it has learned something.

        Raises:
            UsageError: the targets name no module of the model.
        """
        self._base_name = base_name
        alpha = config.alpha if config.alpha is not None else float(2 * rank)
        self.config = peft.LoraConfig(
            r=rank,
            # `peft` only multiplies by it; its type hint says int.
            lora_alpha=alpha,  # type: ignore[arg-type]
            lora_dropout=config.dropout,
            target_modules=target_modules(config.targets, model),
            use_rslora=config.method == "rslora",
            use_dora=config.method == "dora",
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=base_name,
        )
        if config.method == "dora":
            # Its magnitudes are norms over whole rows of the frozen weights.
            for module in model.network.modules():
                if isinstance(module, QuantizedLinear):
                    module.materializes = True
        # Before `peft` wraps them.
        known = model.linear_names()
        try:
            self.peft: Any = peft.get_peft_model(model.network, self.config)
        except ValueError as error:
            raise bad_targets(
                f"no module of this model matches {config.targets!r}", known
            ) from error
        for name, module in self.peft.named_modules():
            # Of routers, `peft` adapts the bare parameter, which has no form in GGUF.
            if isinstance(module, LoraLayer) and not isinstance(
                module.get_base_layer(), QuantizedLinear
            ):
                raise bad_targets(f"{config.targets!r} matches {name}, no linear layer", known)
        self.parameters: dict[str, torch.nn.Parameter] = {
            name: p for name, p in self.peft.named_parameters() if p.requires_grad
        }

    @property
    def num_elements(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    def state(self) -> dict[str, torch.Tensor]:
        """Its weights by the names that `peft` saves them under."""
        found = peft.get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        return {name: t.detach().to("cpu").contiguous() for name, t in found.items()}

    def save(self, folder: Path) -> None:
        """Writes `adapter_model.safetensors`, then `adapter_config.json`; both replace what was there.

        Raises:
            CapacityError: the disk is full or forbidden.
        """
        with disk_errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            weights = save(self.state(), metadata={"format": "pt"})
            write_durably(folder / WEIGHTS, weights)
            text = json.dumps(self.description(), indent=2, sort_keys=True)
            write_durably(folder / "adapter_config.json", text.encode())

    def description(self) -> dict[str, Any]:
        """What `adapter_config.json` says: nothing of where it was made."""
        body: dict[str, Any] = {}
        for key, value in self.config.to_dict().items():
            plain = sorted(value) if isinstance(value, set) else value
            body[key] = plain.value if hasattr(plain, "value") else plain
        body["inference_mode"] = True
        body["base_model_name_or_path"] = self._base_name
        return body


def target_modules(targets: str | None, model: TunableModel) -> list[str] | str:
    """All linear layers unless told otherwise; a list of names, or a regular expression."""
    wanted = parse_targets(targets)
    if wanted is None:
        return model.linear_names()
    return wanted if isinstance(wanted, list) else wanted.pattern


def footprint_of(model: TunableModel, targets: str | None) -> Footprint:
    """The sizes that memory depends on."""
    linears = [m for m in model.network.modules() if isinstance(m, QuantizedLinear)]
    h = model.h
    return Footprint(
        num_blocks=h.num_blocks,
        width=h.width,
        q_width=h.num_heads * h.head_size,
        kv_width=h.kv_width,
        feed_forward_width=h.feed_forward_width or h.expert_width,
        vocabulary_size=h.vocabulary_size,
        block_elements=model.block_elements,
        largest_matrix=max(m.in_features * m.out_features for m in linears),
        file_bytes=model.file.num_bytes,
        runtime_bytes=round_up(psutil.Process().memory_info().rss, _RUNTIME_STEP_BYTES),
        adapter_elements_per_rank=elements_per_rank(model, targets),
        explicit_heads=h.num_heads if model.attention_is_explicit else 0,
    )


def elements_per_rank(model: TunableModel, targets: str | None) -> int:
    """How many numbers an adapter of rank one has, at most (a pattern counts as everything)."""
    wanted = target_modules(targets, model)
    names = wanted if isinstance(wanted, list) else model.linear_names()
    return sum(
        module.in_features + module.out_features
        for name, module in model.network.named_modules()
        if isinstance(module, QuantizedLinear) and name.rpartition(".")[2] in names
    )
