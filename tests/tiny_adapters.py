"""Random adapters for a model file: for all of its matrices, or for some."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from baremetalrt.weights.adapters.adapter import EMBEDDING, HEAD, Adapter, LowRank, shape_of
from baremetalrt.weights.adapters.gguf_lora import write_gguf_lora
from baremetalrt.weights.gguf import GGUFFile


def random_adapter(
    path: Path,
    *,
    rank: int = 4,
    seed: int = 0,
    strength: float = 0.5,
    alpha: float = 8.0,
    targets: Callable[[str], bool] = lambda name: True,
    base_content_id: str | None = None,
) -> Adapter:
    """An adapter that moves every product by about `strength` of its size.

    The embedding is adapted where the model has a head of its own: llama.cpp does it nowhere else.
    """
    file = GGUFFile.open(path)
    rng = np.random.default_rng(seed + 1000)
    matrices = {}
    for name, info in file.tensors.items():
        shape = shape_of(info)
        if len(shape) < 2 or not targets(name) or (name == EMBEDDING and HEAD not in file.tensors):
            continue
        leading = shape[2:]
        a = rng.standard_normal((*leading, rank, shape[0])) / np.sqrt(shape[0])
        b = rng.standard_normal((*leading, shape[1], rank)) * strength / np.sqrt(rank)
        matrices[name] = LowRank(a.astype(np.float32), (b * rank / alpha).astype(np.float32))
    return Adapter(
        name=f"tiny-{seed}",
        architecture=file.architecture,
        alpha=alpha,
        matrices=matrices,
        base_content_id=base_content_id,
    )


def write_adapter(adapter: Adapter, path: Path) -> Path:
    """The same as a GGUF file."""
    write_gguf_lora(adapter, path)
    return path
