"""What an adapter is in memory, and whether it fits a model.

Shapes: an adapter adds `b_FR @ a_RD` times a scale to a matrix of F rows and width D. Of experts, both
have one more dimension in front. DoRA also multiplies the rows of the matrix itself, by `row_scale_F`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.weights.gguf import EMBEDDING, HEAD, GGUFFile, TensorInfo, describe_shape

# Adapters in use have ranks up to 256; nothing that fine-tunes at home comes near this.
MAX_RANK: Final = 1024
_MAX_ALPHA: Final = 1e6
_MAX_SCALE: Final = 16.0


@dataclass(frozen=True)
class LowRank:
    """The two factors of what is added to one matrix, and what its own rows are multiplied by before."""

    a_RD: NDArray[np.float32]
    b_FR: NDArray[np.float32]
    row_scale_F: NDArray[np.float32] | None = None

    @property
    def rank(self) -> int:
        return int(self.a_RD.shape[-2])

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of the matrix, fastest dimension first, as ggml has it."""
        return (self.a_RD.shape[-1], *self.b_FR.shape[-2::-1])

    @property
    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """Everything that it consists of."""
        scale = () if self.row_scale_F is None else (self.row_scale_F,)
        return (self.a_RD, self.b_FR, *scale)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA: what is added to which tensors. Make one with `checked`.

    `matrices` go by the full name of the tensor, `blk.0.attn_q.weight`. `base_content_id` names the model
    that it was made for, where the adapter says so.
    """

    name: str
    architecture: str
    alpha: float
    matrices: Mapping[str, LowRank]
    base_content_id: str | None = None
    base_name: str | None = None

    def scale_of(self, tensor: str) -> float:
        """What `b @ a` is multiplied by; an alpha of zero stands for "not scaled", as in llama.cpp."""
        return self.alpha / self.matrices[tensor].rank if self.alpha else 1.0

    @property
    def rank(self) -> int:
        """The largest rank of any matrix."""
        return max(m.rank for m in self.matrices.values())

    @property
    def num_bytes(self) -> int:
        """The memory that it takes in single precision."""
        return sum(array.nbytes for m in self.matrices.values() for array in m.arrays)

    @property
    def is_dora(self) -> bool:
        """Whether it multiplies rows of the base, too, which other programs have no file for."""
        return any(m.row_scale_F is not None for m in self.matrices.values())

    @cached_property
    def digest(self) -> str:
        """Names the numbers: two adapters that compute the same have the same."""
        import hashlib  # here and not above: plain inference starts without it

        digest = hashlib.blake2b(repr(self.alpha).encode(), digest_size=16)
        for name in sorted(self.matrices):
            m = self.matrices[name]
            digest.update(f"{name} {[array.shape for array in m.arrays]}".encode())
            for array in m.arrays:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def checked(adapter: Adapter, *, source: str) -> Adapter:
    """The adapter, if everything in it can be computed with.

    Raises:
        IntegrityError: it is empty, a factor has no rank or an absurd one, the two do not belong
            together, or a number is not finite.
    """
    if not adapter.matrices:
        raise bad(source, "adapts nothing")
    if not math.isfinite(adapter.alpha) or not 0.0 <= adapter.alpha <= _MAX_ALPHA:
        raise bad(source, f"has an alpha of {adapter.alpha}, expected 0 to {_MAX_ALPHA:.0f}")
    if adapter.is_dora and any(
        n == EMBEDDING or m.a_RD.ndim != 2 for n, m in adapter.matrices.items()
    ):
        raise bad(
            source, "scales rows, and adapts an embedding or experts, where that is not known"
        )
    for name, m in adapter.matrices.items():
        if m.a_RD.ndim not in (2, 3) or m.a_RD.ndim != m.b_FR.ndim:
            raise bad(
                source, f"{name}: its factors have {m.a_RD.ndim} and {m.b_FR.ndim} dimensions"
            )
        if m.b_FR.shape[-1] != m.rank or m.a_RD.shape[:-2] != m.b_FR.shape[:-2]:
            shapes = f"{m.a_RD.shape} and {m.b_FR.shape}"
            raise bad(source, f"{name}: factors of shapes {shapes} cannot be multiplied")
        if not 1 <= m.rank <= MAX_RANK:
            raise bad(source, f"{name} has rank {m.rank}, expected 1 to {MAX_RANK}")
        if m.row_scale_F is not None and m.row_scale_F.shape != m.b_FR.shape[:-1]:
            raise bad(source, f"{name}: not one number for each of its {m.b_FR.shape[-2]} rows")
        if not all(np.isfinite(array).all() for array in m.arrays):
            raise bad(source, f"{name} holds numbers that are not finite")
    return adapter


def check_fits(adapter: Adapter, file: GGUFFile) -> None:
    """Whether an adapter can be added to this model, as far as its header tells.

    Raises:
        UsageError: it is for another architecture, or for tensors that the model does not have.
    """
    if adapter.architecture != file.architecture:
        raise UsageError(
            f"the adapter {adapter.name} is for the architecture {adapter.architecture}, "
            f"{file.path.name} has {file.architecture}",
            code="adapter.architecture",
            parameter="adapter",
            hint=_base_hint(adapter),
        )
    for name, m in adapter.matrices.items():
        info = adapted_tensor(file, name)
        if info is None or not name.endswith(".weight"):
            raise _misfit(adapter, file, f"adapts {name}, which the model does not have")
        shape = shape_of(info)
        if len(shape) < 2 or len(shape) != m.a_RD.ndim or shape != m.target_shape:
            raise _misfit(
                adapter,
                file,
                f"adapts {name} as {describe_shape(m.target_shape)}, the model has "
                f"{describe_shape(shape)}",
            )


def adapted_tensor(file: GGUFFile, name: str) -> TensorInfo | None:
    """The tensor whose products an adapter of `name` adds to.

    Where the embedding is also the head, both have its rows, and each its own factors: those of the
    embedding are added to what is looked up, those of the head to logits, as in `peft`.
    """
    return file.tensors.get(EMBEDDING if name == HEAD and is_tied(file) else name)


def is_tied(file: GGUFFile) -> bool:
    """Whether the embedding is also the head."""
    return HEAD not in file.tensors


def combined(members: Iterable[tuple[Adapter, float]], tensor: str) -> LowRank | None:
    """What adapters, each times its weight, do to one tensor together; scales are in the second factor.

    With a weight of `w`, DoRA goes `w` of the way from the matrix to what it makes of it.
    """
    found = [(one.matrices[tensor], one, w) for one, w in members if tensor in one.matrices]
    if not found:
        return None
    scaled = [
        (m.a_RD, m.b_FR * np.float32(weight * one.scale_of(tensor))) for m, one, weight in found
    ]
    shifts = [
        np.float32(weight) * (m.row_scale_F - 1)
        for m, _, weight in found
        if m.row_scale_F is not None
    ]
    # Factors side by side: their product is the sum of the products.
    return LowRank(
        np.concatenate([a for a, _ in scaled], axis=-2),
        np.concatenate([b for _, b in scaled], axis=-1),
        (1 + np.sum(shifts, axis=0)).astype(np.float32) if shifts else None,
    )


def check_scale(scale: float) -> float:
    """Raises `UsageError` unless an adapter can be weighted so."""
    if not math.isfinite(scale) or abs(scale) > _MAX_SCALE:
        raise UsageError(
            f"an adapter cannot be weighted by {scale}",
            code="adapter.scale",
            parameter="adapter",
            hint=f"between {-_MAX_SCALE:.0f} and {_MAX_SCALE:.0f}; 1 is as it was trained",
        )
    return scale


def shape_of(info: TensorInfo) -> tuple[int, ...]:
    """The shape without trailing ones, of which experts of one are none."""
    shape: tuple[int, ...] = info.shape
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def bad(source: str, what: str, *, hint: str | None = None) -> IntegrityError:
    """An adapter that cannot be used, and whose fault it is."""
    return IntegrityError(f"the adapter {what}", code="adapter.invalid", source=source, hint=hint)


def _misfit(adapter: Adapter, file: GGUFFile, what: str) -> UsageError:
    return UsageError(
        f"the adapter {adapter.name} does not fit {file.path.name}: it {what}",
        code="adapter.misfit",
        parameter="adapter",
        hint=_base_hint(adapter),
    )


def _base_hint(adapter: Adapter) -> str:
    if adapter.base_name:
        return f"it was made for {adapter.base_name}"
    return "use it with the model that it was made for"
