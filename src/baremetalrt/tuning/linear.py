"""Layers whose weights stay in the file: floats exist only while they are multiplied by.

Nothing that is the size of a weight is kept from forward to backward. Frozen weights have no gradient
of their own, so all that backward needs of them is one more product.
"""

from typing import Any

import torch
from torch import nn

from baremetalrt.tuning.matrices import Matrix


class _Product(torch.autograd.Function):
    """`y = x Wᵀ` for a matrix of the file; in the file's order of outputs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        ctx.matrix = matrix
        return x @ matrix.floats().to(x.device).t()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ ctx.matrix.floats().to(gradients[0].device), None


class _Unneeded(_Product):
    """A product of which only the way back is wanted."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        ctx.matrix = matrix
        return x.new_zeros(1).expand(*x.shape[:-1], matrix.num_rows)


def product(x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """`x (…, K)` times the transposed matrix: `(…, N)`, in the file's order of outputs."""
    y: torch.Tensor = _Product.apply(x, matrix)  # type: ignore[no-untyped-call]
    return y


class QuantizedLinear(nn.Linear):
    """A frozen `nn.Linear` on a matrix of the file; `peft` adapts it like any other."""

    def __init__(self, matrix: Matrix, bias: torch.Tensor | None) -> None:
        self._stand_in: torch.Tensor
        self._bias: torch.Tensor | None
        # Not `nn.Linear.__init__`, which would allocate the weight.
        nn.Module.__init__(self)
        self.in_features, self.out_features = matrix.num_columns, matrix.num_rows
        self.matrix = matrix
        # `peft` asks the weight for its shape, type and device; DoRA for its values, too.
        self.materializes = False
        # Whether nothing but an addition follows in the block.
        self.ends_block = False
        self.register_buffer("_stand_in", torch.zeros(1), persistent=False)
        self.register_buffer("_bias", bias, persistent=False)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        stand_in: torch.Tensor = self._stand_in
        if self.materializes:
            return self.matrix.copy().to(stand_in.device)
        return stand_in.expand(self.out_features, self.in_features)

    @property
    def bias(self) -> torch.Tensor | None:  # type: ignore[override]
        return self._bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Shapes: `(…, K)` to `(…, N)`."""
        if self.ends_block and self.matrix.bench.is_second_pass and not self.materializes:
            # The way back needs what led here, not what is here: it is only added to something. (DoRA
            # multiplies it by what it learns.)
            return _Unneeded.apply(input, self.matrix)  # type: ignore[no-untyped-call, no-any-return]
        y = self.matrix.from_file_order(product(input, self.matrix))
        return y if self._bias is None else y + self._bias


class QuantizedEmbedding(nn.Module):
    """Rows of the file's embedding, read when a text has them."""

    def __init__(self, matrix: Matrix, *, scale: float = 1.0) -> None:
        super().__init__()
        self.matrix = matrix
        self.num_embeddings, self.embedding_dim = matrix.num_rows, matrix.num_columns
        self.padding_idx = None
        self._scale = scale
        self.weight = torch.zeros(1).expand(matrix.num_rows, matrix.num_columns)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Shapes: `(B, T)` to `(B, T, D)`."""
        rows = self.matrix.gather(input)
        return rows if self._scale == 1.0 else rows * self._scale


class QuantizedExperts(nn.Module):
    """The networks of a mixture of experts; only those that a row was sent to are read."""

    def __init__(self, gate: list[Matrix], up: list[Matrix], down: list[Matrix], act: Any) -> None:
        super().__init__()
        self._gate, self._up, self._down, self._act = gate, up, down, act

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Shapes: rows `(T, D)`, chosen experts and their weights `(T, E)`; returns `(T, D)`."""
        out = torch.zeros_like(hidden_states)
        for expert in torch.unique(top_k_index).tolist():
            rows, slots = torch.where(top_k_index == expert)
            x = hidden_states[rows]
            gate = product(x, self._gate[expert])
            up = product(x, self._up[expert])
            y = product(self._act(gate) * up, self._down[expert])
            out = out.index_add(0, rows, y * top_k_weights[rows, slots, None])
        return out
