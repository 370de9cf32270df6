"""Adapters as the `peft` library saves them: a folder with safetensors and a configuration.

Nothing here needs torch: the numbers come through the `safetensors` package, and pickled weights are
refused, because reading them runs whatever program is in them.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes
from baremetalrt.weights.adapters import dora, names
from baremetalrt.weights.adapters.adapter import (
    Adapter,
    LowRank,
    adapted_tensor,
    bad,
    checked,
    shape_of,
)
from baremetalrt.weights.adapters.gguf_lora import BASE_CONTENT_ID, MAX_ADAPTER_BYTES
from baremetalrt.weights.adapters.peft_config import CONFIG_NAME, PeftConfig, read_peft_config
from baremetalrt.weights.adapters.safetensors_folder import (
    WEIGHTS_NAME,
    StoredTensor,
    has_weights,
    open_folder,
)
from baremetalrt.weights.adapters.saved_embeddings import check_unchanged
from baremetalrt.weights.gguf import EMBEDDING, GGUFFile

PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# `lora_A.weight` of matrices, `lora_embedding_A` of the embedding; some files keep the adapter's name.
_PARTS: Final = {
    "lora_A": "a",
    "lora_embedding_A": "a",
    "lora_B": "b",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitudes",
}
_SUFFIXES: Final = ("", ".weight", ".default", ".default.weight")


# `a` is (R, D) and `b` (F, R) as the file has them; `magnitudes` of DoRA is (F).
_Module = dict[str, NDArray[np.float32]]


def read_peft(
    folder: Path, base: GGUFFile, *, name: str | None = None, base_content_id: str | None = None
) -> Adapter:
    """Reads a PEFT folder as an adapter for this model, with rows in the order of GGUF.

    Raises:
        UsageError: it is neither LoRA nor DoRA, or for modules that the model does not have; or it is
            DoRA, and the weights of the model are not all here.
        IntegrityError: it is damaged, absurd, or holds pickled weights.
    """
    source = str(folder)
    refuse_pickled(folder)
    config = read_peft_config(folder / CONFIG_NAME)
    if base.architecture not in names.known_architectures():
        raise UsageError(
            f"adapters of transformers are not known for the architecture {base.architecture!r}",
            code="adapter.architecture",
            parameter="adapter",
            hint="known: " + ", ".join(sorted(names.known_architectures())),
        )
    stored = open_folder(folder)
    named_base = stored.metadata.get(BASE_CONTENT_ID)
    modules = _modules(_load(stored.tensors, base, source), config, source)
    matrices, scales = _matrices(modules, config, base, source)
    # One alpha serves all where scales and ranks allow; the rest goes into the second factor.
    alphas = Counter(scales[n] * m.rank for n, m in matrices.items())
    alpha = alphas.most_common(1)[0][0]
    for target, m in matrices.items():
        factor = scales[target] / (alpha / m.rank)
        if abs(factor - 1.0) > 1e-9:
            matrices[target] = replace(m, b_FR=m.b_FR * np.float32(factor))
    return checked(
        Adapter(
            name=name or folder.name,
            architecture=base.architecture,
            alpha=float(alpha),
            matrices=matrices,
            base_content_id=base_content_id or named_base,
            base_name=config.base_name,
        ),
        source=source,
    )


def refuse_pickled(path: Path) -> None:
    """Raises `IntegrityError` for weights that only unpickling could read."""
    pickled = path if path.suffix.lower() in PICKLED else None
    if path.is_dir() and not has_weights(path):
        found = (p for p in sorted(path.glob("adapter_model*")) if p.suffix.lower() in PICKLED)
        pickled = next(found, None)
    if pickled is not None:
        raise bad(
            str(path),
            f"is pickled ({pickled.name}): reading it would run a program of a stranger",
            hint="save it again as safetensors: save_pretrained(…, safe_serialization=True)",
        )


def _load(
    stored: Mapping[str, StoredTensor], base: GGUFFile, source: str
) -> dict[str, NDArray[np.float32]]:
    """Every factor, in single precision. What else was saved is compared with the base and left."""
    saved = {name: tensor for name in stored if (tensor := names.saved_of(name))}
    factors = {name: tensor for name, tensor in stored.items() if name not in saved}
    if sum(tensor.num_bytes for tensor in factors.values()) > MAX_ADAPTER_BYTES:
        raise bad(source, f"is larger than {format_bytes(MAX_ADAPTER_BYTES)}")
    for name, tensor in saved.items():
        check_unchanged(stored[name], name, base, tensor)
    return {name: tensor.read() for name, tensor in factors.items()}


def _modules(
    tensors: dict[str, NDArray[np.float32]], config: PeftConfig, source: str
) -> dict[str, _Module]:
    """All parts by module, with their dimensions checked, though not yet their shapes."""
    modules: dict[str, _Module] = {}
    endings = {f".{name}{end}": part for name, part in _PARTS.items() for end in _SUFFIXES}
    for name, array in tensors.items():
        ending = next((ending for ending in endings if name.endswith(ending)), None)
        if ending is None:
            raise bad(source, f"has a tensor {name[:200]}, which is no factor of a LoRA")
        part = endings[ending]
        expected = 1 if part == "magnitudes" else 2
        if array.ndim != expected:
            raise bad(source, f"has {name[:200]} with {array.ndim} dimensions, expected {expected}")
        modules.setdefault(name.removesuffix(ending), {})[part] = array
    for name, module in modules.items():
        if not {"a", "b"} <= module.keys():
            raise bad(source, f"has only one factor for {name[:200]}")
        if config.is_dora != ("magnitudes" in module):
            what = "no magnitudes" if config.is_dora else "magnitudes of DoRA"
            raise bad(source, f"has {what} for {name[:200]}, its {CONFIG_NAME} says otherwise")
    return modules


def _matrices(
    modules: dict[str, _Module], config: PeftConfig, base: GGUFFile, source: str
) -> tuple[dict[str, LowRank], dict[str, float]]:
    """Factors and scales by tensor of GGUF."""
    whole: dict[str, LowRank] = {}
    experts: dict[str, dict[int, LowRank]] = {}
    scales: dict[str, float] = {}
    for module, parts in modules.items():
        a, b, magnitudes_F = parts["a"], parts["b"], parts.get("magnitudes")
        target = names.target_of(module, base.architecture)
        if target is None or adapted_tensor(base, target.tensor) is None:
            raise UsageError(
                f"the adapter is for a module {module[:200]}, which {base.path.name} does not have",
                code="adapter.misfit",
                parameter="adapter",
                hint="use it with the model that it was made for",
            )
        plain = module.removeprefix("base_model.model.")
        if target.tensor == EMBEDDING:
            # `transformers` looks rows of the embedding up: A is (R, V) and B is (D, R).
            a, b = b.T, a.T
        if a.shape[0] != config.rank_of(plain):
            raise bad(
                source,
                f"has rank {a.shape[0]} for {plain[:200]}, its {CONFIG_NAME} says "
                f"{config.rank_of(plain)}",
            )
        scale = config.scale_of(plain)
        if names.is_permuted(target.tensor, base.architecture):
            size = names.head_size(base)
            if size < 2 or size % 2 or len(b) % size:
                raise bad(source, f"has {len(b)} rows for {plain[:200]}, not whole heads of {size}")
            b = names.permute(b, size)
            if magnitudes_F is not None:
                magnitudes_F = names.permute(magnitudes_F, size)
        found = LowRank(np.ascontiguousarray(a), np.ascontiguousarray(b))
        if magnitudes_F is not None:
            found = dora.with_magnitudes(
                found, scale, magnitudes_F, base, target.tensor, source=source
            )
        if scales.setdefault(target.tensor, scale) != scale:
            raise bad(source, f"scales the experts of {target.tensor} differently")
        if target.expert is None:
            whole[target.tensor] = found
        else:
            experts.setdefault(target.tensor, {})[target.expert] = found
    for tensor, of_expert in experts.items():
        whole[tensor] = _stacked(of_expert, shape_of(base.tensors[tensor])[-1], tensor, source)
    return whole, scales


def _stacked(parts: dict[int, LowRank], count: int, tensor: str, source: str) -> LowRank:
    """One tensor for all experts; those that are not adapted get zeros."""
    if max(parts) >= count:
        raise bad(source, f"adapts expert {max(parts)} of {count} in {tensor}")
    first = next(iter(parts.values()))
    a = np.zeros((count, *first.a_RD.shape), np.float32)
    b = np.zeros((count, *first.b_FR.shape), np.float32)
    for i, m in parts.items():
        if m.a_RD.shape != first.a_RD.shape or m.b_FR.shape != first.b_FR.shape:
            raise bad(source, f"adapts the experts of {tensor} with different shapes")
        a[i], b[i] = m.a_RD, m.b_FR
    return LowRank(a, b)


def write_peft(adapter: Adapter, folder: Path, base: GGUFFile) -> None:
    """Writes an adapter as `peft` loads it, with rows in the order of `transformers`.

    Raises:
        UsageError: it adapts experts, or something that `transformers` has no module for; or it is
            DoRA, and the weights of the model are not all here.
    """
    tensors: dict[str, NDArray[np.float32]] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for tensor, m in adapter.matrices.items():
        module = names.module_of(tensor, adapter.architecture)
        if module is None:
            raise UsageError(
                f"{adapter.name} adapts {tensor}, which peft has no name for",
                code="adapter.unsupported",
                hint="export it as GGUF",
            )
        magnitudes_F = None
        if adapter.is_dora:
            m, magnitudes_F = dora.magnitudes(m, adapter.scale_of(tensor), base, tensor)
        b = m.b_FR
        if names.is_permuted(tensor, adapter.architecture):
            b = names.unpermute(b, names.head_size(base))
            if magnitudes_F is not None:
                magnitudes_F = names.unpermute(magnitudes_F, names.head_size(base))
        prefix = f"base_model.model.{module}"
        if tensor == EMBEDDING:
            tensors[f"{prefix}.lora_embedding_A"] = np.ascontiguousarray(b.T)
            tensors[f"{prefix}.lora_embedding_B"] = np.ascontiguousarray(m.a_RD.T)
        else:
            tensors[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(m.a_RD)
            tensors[f"{prefix}.lora_B.weight"] = np.ascontiguousarray(b)
        if magnitudes_F is not None:
            tensors[f"{prefix}.lora_magnitude_vector"] = np.ascontiguousarray(magnitudes_F)
        ranks[module] = m.rank
        alphas[module] = adapter.scale_of(tensor) * m.rank
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_name,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": {k: r for k, r in ranks.items() if r != rank},
        "alpha_pattern": {k: a for k, a in alphas.items() if a != alpha},
        "target_modules": sorted({module.rpartition(".")[2] for module in ranks}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "use_dora": adapter.is_dora,
        "use_rslora": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    about = {"format": "pt"}
    if adapter.base_content_id:
        about[BASE_CONTENT_ID] = adapter.base_content_id
    (folder / WEIGHTS_NAME).write_bytes(save(tensors, metadata=about))
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
