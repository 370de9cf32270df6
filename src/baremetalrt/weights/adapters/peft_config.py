"""`adapter_config.json` of the `peft` library: what of it changes the arithmetic, checked.

Source: `LoraConfig` of peft; arXiv 2106.09685, 2312.03732 (rank-stabilized scaling), 2402.09353 (DoRA).
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import read_regular
from baremetalrt.core.units import MIB
from baremetalrt.weights.adapters.adapter import MAX_RANK, bad
from baremetalrt.weights.adapters.module_patterns import ModulePatterns

CONFIG_NAME: Final = "adapter_config.json"
_MAX_CONFIG_BYTES: Final = MIB
_MAX_ALPHA: Final = 1e6
# What computes neither LoRA nor DoRA, unless it is off.
_UNSUPPORTED: Final = {
    "use_qalora": "QALoRA",
    "lora_bias": "biases of its own",
    "fan_in_fan_out": "transposed weights",
    "modules_to_save": "whole modules",
    "layer_replication": "repeated layers",
    "target_parameters": "adapted parameters",
    "trainable_token_indices": "trained tokens",
    "alora_invocation_tokens": "an activating phrase",
    "arrow_config": "a router",
    "use_bdlora": "block-diagonal factors",
}
# Initializations that change the base weights as well.
_CHANGES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """Rank, alpha and how they scale. Patterns say otherwise for modules whose name ends like that."""

    rank: int
    alpha: float
    is_rank_stabilized: bool = False
    is_dora: bool = False
    rank_pattern: ModulePatterns
    alpha_pattern: ModulePatterns
    base_name: str | None = None

    def rank_of(self, module: str) -> int:
        """The rank that a module is said to have."""
        return int(self.rank_pattern.value_of(module, self.rank))

    def scale_of(self, module: str) -> float:
        """What `B A x` of a module is multiplied by."""
        alpha, rank = self.alpha_pattern.value_of(module, self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.is_rank_stabilized else alpha / rank


def read_peft_config(path: Path) -> PeftConfig:
    """Reads the configuration of an adapter.

    Raises:
        UsageError: it describes something else than LoRA or DoRA.
        IntegrityError: it is damaged or absurd.
    """
    source = str(path)
    try:
        found = json.loads(read_regular(path, _MAX_CONFIG_BYTES))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}",
            code="adapter.unreadable",
            hint=f"an adapter is a folder with adapter_model.safetensors and {CONFIG_NAME}",
        ) from error
    except (ValueError, RecursionError) as error:
        raise bad(source, f"has a {CONFIG_NAME} that is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise bad(source, f"has a {CONFIG_NAME} that is not an object")
    _refuse_unsupported(found, path)
    base = found.get("base_model_name_or_path")
    return PeftConfig(
        rank=int(_ranked(_number(found, "r", 8, source), source)),
        alpha=_bounded(_number(found, "lora_alpha", 8, source), source),
        is_rank_stabilized=bool(found.get("use_rslora")),
        is_dora=bool(found.get("use_dora")),
        rank_pattern=_patterns(found, "rank_pattern", _ranked, source),
        alpha_pattern=_patterns(found, "alpha_pattern", _bounded, source),
        # A path says something of a machine and nothing of a model: its last part is the name.
        base_name=re.split(r"[\\/]", base)[-1][:200] or None if isinstance(base, str) else None,
    )


def _refuse_unsupported(found: dict[str, Any], path: Path) -> None:
    kind = found.get("peft_type", "LORA")
    if kind != "LORA":
        raise _unsupported(path, f"an adapter of type {kind!r}")
    for key, what in _UNSUPPORTED.items():
        if found.get(key):
            raise _unsupported(path, what)
    if found.get("bias", "none") != "none":
        raise _unsupported(path, "trained biases")
    start = found.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise _unsupported(path, f"{start} initialization, which changes the base model")


def _unsupported(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path.parent.name} uses {what}, which is not supported: only LoRA and DoRA are",
        code="adapter.unsupported",
        parameter="adapter",
        hint="merge it with the program that made it, and run the merged model",
    )


def _patterns(
    found: dict[str, Any], key: str, check: Callable[[float, str], float], source: str
) -> ModulePatterns:
    patterns = found.get(key) or {}
    if not isinstance(patterns, dict):
        raise bad(source, f"has a {key} that is no table")
    values = {p: check(_number(patterns, p, 0, source), source) for p in patterns}
    return ModulePatterns(values, key=key, source=source)


def _number(found: dict[str, Any], key: str, default: float, source: str) -> float:
    value = found.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise bad(source, f"has {key} = {value!r}, expected a number")
    return float(value)


def _ranked(rank: float, source: str) -> float:
    if rank != int(rank) or not 1 <= rank <= MAX_RANK:
        raise bad(source, f"has rank {rank:g}, expected 1 to {MAX_RANK}")
    return rank


def _bounded(alpha: float, source: str) -> float:
    if not 0 < alpha <= _MAX_ALPHA:
        raise bad(source, f"has an alpha of {alpha:g}, expected at most {_MAX_ALPHA:.0f}")
    return alpha
