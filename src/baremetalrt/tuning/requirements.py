"""PyTorch and its like are an extra: whether they are here, and that they keep to themselves."""

import importlib.util
import os
import warnings
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.installation import how_to_add

_NEEDED: Final = (
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "matplotlib",
    "plotille",
    "opacus",
)
# Read by these libraries when they are imported: no look-ups, no telemetry, no advice.
_QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "WANDB_DISABLED": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    # PyTorch's threads would spin after each product, on the cores that dequantize the next matrix:
    # 8.6 ms per product of 512 rows became 7.5.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def prepare() -> None:
    """Call it before the first import of PyTorch.

    Raises:
        UsageError: the extra is not installed; the hint is the one command that installs it.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"fine-tuning needs {missing[0]}, which is not installed",
            code="tune.not-installed",
            # Both: whoever tunes will want to read documents, and types one command.
            hint=how_to_add("learn", "tune"),
        )
    os.environ.update(_QUIET)
    # Advice to programmers about each other's releases.
    warnings.filterwarnings("ignore", module=r"(transformers|peft|torch)\b")
