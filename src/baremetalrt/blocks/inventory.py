"""Which tensors a span needs, and whether the file has them in a form that ggml can compute with.

ggml ends the process on a shape or type that does not fit: everything is compared here first. Pure.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from baremetalrt.blocks.architecture import Architecture, TensorSpec, outer_tensors
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.spans import BlockSpan, ByteRange, merge
from baremetalrt.core.units import format_bytes
from baremetalrt.native.graph import F32
from baremetalrt.weights.gguf import EMBEDDING, HEAD, GGUFFile, TensorInfo, describe_shape

# Types that ggml multiplies by: floats and every quantization but the two that only hold activations
# (Q8_1 and Q8_K). Integers and doubles would end the process. Source: `enum ggml_type`.
_MATRIX_TYPES: Final = frozenset(
    {0, 1, 2, 3, 6, 7, 8, *range(10, 15), *range(16, 24), 29, 30, 34, 35, 39, 40, 41, 42}
)
# Old files carry these beside the weights; nothing computes with them.
# The matrices of all experts of a block.
EXPERT_MATRICES: Final = ("ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight")
_IGNORED: Final = frozenset({"attn_rot_embd.weight", "rope_freqs.weight"})


@dataclass(frozen=True)
class Weight:
    """One tensor to load; `multiplied` ones may be kept in whatever order multiplies fastest."""

    info: TensorInfo
    multiplied: bool


# What is loaded at once: what comes before the blocks, one block, what comes after them.
Unit = int | Literal["entry", "head"]


@dataclass(frozen=True)
class Inventory:
    """The tensors of a span by name: per block, and outside of blocks."""

    blocks: dict[int, dict[str, Weight]]
    outer: dict[str, Weight]

    @property
    def units(self) -> tuple[Unit, ...]:
        """In order of execution: entry, blocks, head."""
        return ("entry", *self.blocks, "head")

    def weights(self, unit: Unit) -> dict[str, Weight]:
        """The tensors of a unit; entry and head may have none."""
        if isinstance(unit, int):
            return self.blocks[unit]
        is_head = unit == "head"
        return {n: w for n, w in self.outer.items() if n.startswith("output") == is_head}

    def unit_ranges(self, unit: Unit) -> tuple[ByteRange, ...]:
        """What has to be there before the unit can be loaded."""
        return merge(w.info.byte_range for w in self.weights(unit).values())

    @property
    def num_tensors(self) -> int:
        return len(self.outer) + sum(len(block) for block in self.blocks.values())

    @property
    def multiplied_ranges(self) -> tuple[ByteRange, ...]:
        """What every step reads: all but the embedding, of which it looks up a few rows."""
        groups = (self.outer, *self.blocks.values())
        weights = (w for group in groups for w in group.values())
        return merge(w.info.byte_range for w in weights if w.multiplied)

    @property
    def byte_ranges(self) -> tuple[ByteRange, ...]:
        """What has to be in the file before the span can be computed."""
        groups = (self.outer, *self.blocks.values())
        return merge(w.info.byte_range for group in groups for w in group.values())


def take_inventory(
    file: GGUFFile, architecture: Architecture, h: Hyperparameters, span: BlockSpan
) -> Inventory:
    """What `span` needs, with embedding and head where it begins and ends the model.

    Raises:
        IntegrityError: a tensor is missing, unknown, of another shape or type, or not all there.
    """
    inventory = list_tensors(file, architecture, h, span)
    missing = file.missing(inventory.byte_ranges)
    if missing:
        raise IntegrityError(
            f"{file.path.name}: {format_bytes(sum(len(r) for r in missing))} of blocks {span} "
            f"are not in the file",
            code="gguf.truncated",
            source=str(file.path),
            hint="the download is incomplete; fetch the rest",
        )
    return inventory


def list_tensors(
    file: GGUFFile, architecture: Architecture, h: Hyperparameters, span: BlockSpan
) -> Inventory:
    """The same, whether or not there is more in the file than its header."""
    if len(file.blocks) < h.num_blocks:
        raise _damaged(file, f"has {len(file.blocks)} of {h.num_blocks} blocks")
    specs = architecture.block_tensors(h)
    return Inventory(
        blocks={i: _block(file, architecture, specs, i) for i in span},
        outer=_outer(file, h, span),
    )


def _block(
    file: GGUFFile, architecture: Architecture, specs: dict[str, TensorSpec], index: int
) -> dict[str, Weight]:
    tensors = file.blocks[index].tensors
    unknown = set(tensors) - set(specs) - _IGNORED
    if unknown:
        raise _damaged(
            file,
            f"has a tensor blk.{index}.{min(unknown)} that {architecture.name} is not known to use",
        )
    weights = {}
    for name, spec in specs.items():
        info = _checked(file, f"blk.{index}.{name}", tensors.get(name), spec)
        if info is not None:
            weights[name] = Weight(info, multiplied=len(spec.shape) > 1)
    _join_gate_and_up(weights)
    return weights


def _join_gate_and_up(weights: dict[str, Weight]) -> None:
    """Where the two matrices follow each other in the file, one multiplication does for both."""
    gate, up = weights.get("ffn_gate.weight"), weights.get("ffn_up.weight")
    if gate is None or up is None or "ffn_gate.bias" in weights or "ffn_up.bias" in weights:
        return
    a, b = gate.info, up.info
    if (a.file, a.type, a.start + a.num_bytes) != (b.file, b.type, b.start):
        return
    width, rows, _, _ = a.shape
    joined = replace(a, shape=(width, 2 * rows, 1, 1), num_bytes=2 * a.num_bytes)
    del weights["ffn_gate.weight"], weights["ffn_up.weight"]
    weights["ffn_gate_up.weight"] = Weight(joined, multiplied=True)


def _outer(file: GGUFFile, h: Hyperparameters, span: BlockSpan) -> dict[str, Weight]:
    is_first, is_last = span.start == 0, span.end == h.num_blocks
    specs = outer_tensors(h)
    weights = {}
    for name, spec in specs.items():
        belongs_to_head = name.startswith("output")
        if (belongs_to_head and not is_last) or (name == EMBEDDING and not is_first):
            continue
        info = _checked(file, name, file.tensors.get(name), spec)
        if info is not None:
            weights[name] = Weight(info, multiplied=name == HEAD)
    if is_last and HEAD not in weights:
        # The head is the embedding, but multiplied by rather than looked up in.
        info = _checked(file, EMBEDDING, file.tensors.get(EMBEDDING), specs[EMBEDDING])
        assert info is not None
        weights[HEAD] = Weight(info, multiplied=True)
    return weights


def _checked(
    file: GGUFFile, name: str, info: TensorInfo | None, spec: TensorSpec
) -> TensorInfo | None:
    """The tensor, if ggml can take it; None if it is absent and need not be there."""
    if info is None:
        if spec.required:
            raise _damaged(file, f"lacks the tensor {name}")
        return None
    expected = (*spec.shape, 1, 1, 1)[:4]
    if info.shape != expected:
        raise _damaged(
            file,
            f"tensor {name} has shape {info.describe_shape()}, expected {describe_shape(expected)}",
        )
    allowed = _MATRIX_TYPES if len(spec.shape) > 1 else {F32}
    if info.type not in allowed:
        raise _damaged(file, f"tensor {name} has type {info.type_name}, which cannot be used here")
    return info


def _damaged(file: GGUFFile, what: str) -> IntegrityError:
    return IntegrityError(f"{file.path.name} {what}", code="gguf.tensors", source=str(file.path))
