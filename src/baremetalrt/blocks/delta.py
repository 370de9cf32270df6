"""What an adapter adds to one product of a graph."""

from dataclasses import dataclass, replace
from typing import Final

from baremetalrt.native.graph import GraphBuilder, Tensor

_F32_BYTES: Final = 4


@dataclass(frozen=True)
class Delta:
    """What is added to one product: `rank` rows of `a @ x`, of `total` ones, from `first` on, times `b`.

    `b` lies by columns, `(F, R)` with F the fastest, or `by_rows`, `(R, F)`. Before, the product is
    multiplied by `row_scale`, `(F)`, where there is one.
    """

    a: Tensor
    b: Tensor
    first: int
    rank: int
    total: int
    by_rows: bool
    row_scale: Tensor | None


def adapted(
    g: GraphBuilder,
    delta: Delta,
    x: Tensor,
    y: Tensor,
    lowered: dict[tuple[Tensor, Tensor], Tensor],
) -> Tensor:
    """What adapters make of `y (F, T)`, the product of a matrix and the rows `x (D, T)`."""
    if delta.row_scale is not None:
        y = g.mul(y, delta.row_scale)
    low = lowered.get((delta.a, x))
    if low is None:
        low = lowered[delta.a, x] = g.mul_mat(delta.a, x)
    part = g.part_of_rows(low, delta.first, delta.rank, delta.total)
    if delta.by_rows:
        part = part if delta.rank == delta.total else g.contiguous(part)
        return g.add(y, g.mul_mat(delta.b, part))
    return g.add(y, g.out_prod(delta.b, g.transpose(part)))


def rows_of(g: GraphBuilder, delta: Delta, first: int, count: int, num_rows: int) -> Delta:
    """What is added to `count` rows, from `first` on, of a matrix of `num_rows`."""
    if delta.by_rows:
        row = delta.rank * _F32_BYTES
        b = g.view_2d(delta.b, (delta.rank, count), row, first * row)
    else:
        shape = (count, delta.rank)
        b = g.view_2d(delta.b, shape, num_rows * _F32_BYTES, first * _F32_BYTES)
    scale = delta.row_scale
    if scale is not None:
        scale = g.view_1d(scale, count, first * _F32_BYTES)
    return replace(delta, b=b, row_scale=scale)
