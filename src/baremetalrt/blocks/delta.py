"""What an adapter adds to one product of a graph."""

from dataclasses import dataclass

from baremetalrt.native.graph import GraphBuilder, Tensor


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
