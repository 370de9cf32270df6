"""A `transformers` model whose weights stay in the GGUF: built without memory, then given its tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.inventory import take_inventory
from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.native.graph import ROPE_INTERLEAVED
from baremetalrt.tuning.architectures import Counterpart, config_arguments, require_counterpart
from baremetalrt.tuning.linear import QuantizedEmbedding, QuantizedExperts, QuantizedLinear
from baremetalrt.tuning.loss import Head, HeadConfig
from baremetalrt.tuning.matrices import Matrix, Workbench, vector
from baremetalrt.tuning.recompute import Recomputation
from baremetalrt.tuning.rotary import frequencies
from baremetalrt.weights.gguf import EMBEDDING, HEAD, GGUFFile, TensorInfo

_ROTATED: Final = ("attn_q", "attn_k")


class TunableModel:
    """The model, its head apart from it, and what both share.

    `network` is the whole `transformers` model, which `peft` adapts in place; its own head is empty.
    """

    def __init__(
        self,
        path: Path,
        *,
        num_threads: int,
        logits_bytes: int = 256 << 20,
        device: str = "cpu",
    ) -> None:
        """Reads the header and builds the model; weights are read when they are multiplied by.

        Raises:
            UsageError: the architecture is not known here, or `transformers` has nothing like it.
            IntegrityError: the file is not what it claims to be.
        """
        self.file = GGUFFile.open(path)
        architecture, self.h = read_model(self.file)
        entry = require_counterpart(self.h)
        # Compares every tensor with what the architecture says it must look like.
        take_inventory(self.file, architecture, self.h, BlockSpan(0, self.h.num_blocks))
        self.bench = Workbench(self.file, num_threads=num_threads)
        self._again = Recomputation(self.bench)
        self._is_interleaved = architecture.rope_mode == ROPE_INTERLEAVED
        self.network = _empty_network(entry, self.h)
        self.attention_is_explicit = entry.attention == "eager"
        for index, block in enumerate(self.network.model.layers):
            self._fill_block(block, self.file.blocks[index].tensors, entry)
        self._fill_rest(entry)
        self.head = self._head(logits_bytes)
        _set_rotary(self.network.model.rotary_emb, self.h, self._rope_factors())
        _require_complete(self.network)
        self.device = torch.device(device)
        self.network.to(self.device).eval()

    def hidden(
        self,
        ids_BT: torch.Tensor,
        cache: Any = None,
        *,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The last hidden rows `(B, T, D)`, normed; without a cache, texts begin at position zero.

        `mask (B, …)` is false for columns of cache and ids that are no text; `positions` are `(B, T)`.
        """
        output = self.network.model(
            input_ids=ids_BT,
            cache=cache,
            use_cache=cache is not None,
            attention_mask=mask,
            position_ids=positions,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def token_losses(self, ids_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in nats of every label that counts; `labels[t]` is what follows `ids[t]`."""
        hidden_BTD = self.hidden(ids_BT)
        return self.head.loss_sums(hidden_BTD.flatten(0, 1), labels_BT.flatten())

    def set_checkpointing(self, on: bool, *, keep_block: bool = True) -> None:
        """Keeps only what enters each block, and computes the rest again on the way back.

        With `keep_block`, a block's floats are made once for the second pass and the way back.
        """
        self.bench.forget()
        self.bench.reserve(self.block_elements if on and keep_block else 0)
        for block in self.network.model.layers:
            block.gradient_checkpointing = on
            block._gradient_checkpointing_func = self._again

    @property
    def block_elements(self) -> int:
        """The elements of the matrices of the largest block that are read in every step."""
        return max(
            sum(
                m.matrix.num_rows * m.matrix.num_columns
                for m in block.modules()
                if isinstance(m, QuantizedLinear)
            )
            for block in self.network.model.layers
        )

    def linear_names(self) -> list[str]:
        """The modules that can be adapted, as `peft` names them in a block: `q_proj`, …"""
        names = {
            name.rpartition(".")[2]
            for name, module in self.network.model.layers[0].named_modules()
            if isinstance(module, QuantizedLinear)
        }
        return sorted(names)

    def close(self) -> None:
        self.bench.close()

    def _fill_block(
        self, block: nn.Module, tensors: Mapping[str, TensorInfo], entry: Counterpart
    ) -> None:
        for name, path in entry.norms.items():
            if f"{name}.weight" in tensors:
                self._fill_norm(block.get_submodule(path), tensors[f"{name}.weight"], entry)
        for name, path in entry.linears.items():
            info = tensors.get(f"{name}.weight")
            if info is not None:
                linear = self._linear(name, info, tensors.get(f"{name}.bias"))
                # Norms after it would need its values.
                linear.ends_block = name == "ffn_down" and "post_ffw_norm" not in entry.norms
                _replace(block, path, linear)
        if "ffn_gate_exps.weight" in tensors:
            self._fill_experts(block.get_submodule("mlp"), tensors)

    def _linear(self, name: str, info: TensorInfo, bias: TensorInfo | None) -> QuantizedLinear:
        heads = 0
        if self._is_interleaved and name in _ROTATED:
            heads = info.shape[1] // self.h.head_size
        matrix = Matrix.of(self.bench, info, interleaved_heads=heads)
        values = None if bias is None else matrix.from_file_order(vector(self.bench, bias))
        return QuantizedLinear(matrix, values)

    def _fill_experts(self, mlp: nn.Module, tensors: Mapping[str, TensorInfo]) -> None:
        router: Any = mlp.get_submodule("gate")
        shape = tensors["ffn_gate_inp.weight"].shape
        values = vector(self.bench, tensors["ffn_gate_inp.weight"]).view(shape[1], shape[0])
        router.weight = nn.Parameter(values, requires_grad=False)
        parts = [
            [
                Matrix.of(self.bench, tensors[f"ffn_{part}_exps.weight"], index=i)
                for i in range(self.h.num_experts)
            ]
            for part in ("gate", "up", "down")
        ]
        act = mlp.get_submodule("experts").act_fn
        _replace(mlp, "experts", QuantizedExperts(parts[0], parts[1], parts[2], act))

    def _fill_norm(self, norm: Any, info: TensorInfo, entry: Counterpart) -> None:
        values = vector(self.bench, info) - entry.norm_offset
        norm.weight = nn.Parameter(values, requires_grad=False)

    def _fill_rest(self, entry: Counterpart) -> None:
        base, tensors = self.network.model, self.file.tensors
        self._fill_norm(base.norm, tensors["output_norm.weight"], entry)
        scale = getattr(base.embed_tokens, "scalar_embed_scale", 1.0)
        matrix = Matrix.of(self.bench, tensors[EMBEDDING])
        base.embed_tokens = QuantizedEmbedding(matrix, scale=scale)
        # The head is not a part of the network: logits are never made all at once.
        self.network.lm_head = nn.Identity()

    def _head(self, logits_bytes: int) -> Head:
        tensors = self.file.tensors
        bias = tensors.get("output.bias")
        return Head(
            Matrix.of(self.bench, tensors.get(HEAD) or tensors[EMBEDDING]),
            None if bias is None else vector(self.bench, bias),
            HeadConfig(
                scale=self.h.logit_scale,
                softcap=self.h.logit_softcap,
                logits_bytes=logits_bytes,
            ),
        )

    def _rope_factors(self) -> Any:
        # The engine takes the long ones when the context may outgrow the original; its default may.
        is_long = self.h.training_context > self.h.rope.original_context
        for name in ("rope_freqs", f"rope_factors_{'long' if is_long else 'short'}"):
            info = self.file.tensors.get(f"{name}.weight")
            if info is not None:
                return vector(self.bench, info).numpy()
        return None


def _empty_network(entry: Counterpart, h: Hyperparameters) -> Any:
    try:
        config = getattr(transformers, entry.config)(**config_arguments(entry, h))
    except StrictDataclassError as error:
        raise UsageError(
            f"transformers does not take the numbers of this model: {error}",
            code="tune.architecture",
        ) from error
    with torch.device("meta"):
        network = getattr(transformers, entry.model)(config)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for block in network.model.layers:
        block.self_attn.scaling = h.attention_scale
    return network


def _set_rotary(rotary: Any, h: Hyperparameters, factors: Any) -> None:
    """One set of frequencies, or one for each kind of attention where the module has two."""
    if hasattr(rotary, "inv_freq"):
        radians, scale = frequencies(h.rope, factors)
        rotary.inv_freq = torch.from_numpy(radians)
        rotary.original_inv_freq = rotary.inv_freq
        rotary.attention_scaling = scale
        return
    for kind, rope in (("full", h.rope), ("sliding", h.window_rope or h.rope)):
        name = f"{kind}_attention"
        if hasattr(rotary, f"{name}_inv_freq"):
            radians, scale = frequencies(rope, factors)
            setattr(rotary, f"{name}_inv_freq", torch.from_numpy(radians))
            setattr(rotary, f"{name}_original_inv_freq", torch.from_numpy(radians))
            setattr(rotary, f"{name}_attention_scaling", scale)


def _replace(parent: nn.Module, path: str, module: nn.Module) -> None:
    above, _, name = path.rpartition(".")
    setattr(parent.get_submodule(above), name, module)


def _require_complete(network: nn.Module) -> None:
    """A bug of ours if it fails: some part of the network was given no tensor."""
    empty = [n for n, p in network.named_parameters() if p.is_meta]
    empty += [n for n, b in network.named_buffers() if b.is_meta]
    if empty:
        raise RuntimeError(f"{empty[0]} and {len(empty) - 1} more have no tensor in the file")
