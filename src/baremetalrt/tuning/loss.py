"""From the last hidden rows to the loss, a chunk of rows and a tile of the vocabulary at a time.

Logits of a chunk are turned into their own gradient in place, so that there is one buffer of them, and
the head's floats exist only for one tile. Shapes: R rows that are scored, D model width, V vocabulary.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from baremetalrt.tuning.matrices import Matrix

# Rows of the head whose floats exist at once.
_TILE_BYTES: Final = 64 << 20
_PIECE_ROWS: Final = 32
IGNORED: Final = -100


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What is done to logits after the product, and how much memory they may take."""

    scale: float = 1.0
    softcap: float = 0.0
    logits_bytes: int = 256 << 20


class Head:
    """The last matrix of a model, its loss, and its logits when somebody wants to see them."""

    def __init__(self, matrix: Matrix, bias: torch.Tensor | None, config: HeadConfig) -> None:
        self.matrix = matrix
        self.bias = bias
        self.config = config

    def limit_logits(self, num_bytes: int) -> None:
        """Bounds the memory of the logits that exist at once."""
        self.config = replace(self.config, logits_bytes=num_bytes)

    def loss_sums(self, x_RD: torch.Tensor, labels_R: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each row in nats, `(R,)`; rows whose label is `IGNORED` are not computed."""
        wanted = labels_R != IGNORED
        losses: torch.Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
            x_RD[wanted], labels_R[wanted], self
        )
        return losses

    @torch.no_grad()
    def logits(self, x_RD: torch.Tensor) -> torch.Tensor:
        """`(R, V)`, for few rows."""
        logits_RV = x_RD.new_empty(len(x_RD), self.matrix.num_rows)
        self.write_logits(x_RD, logits_RV)
        return logits_RV

    def write_logits(self, x_RD: torch.Tensor, out_RV: torch.Tensor) -> None:
        for start, end, tile in self.tiles():
            torch.mm(x_RD, tile.to(x_RD.device).t(), out=out_RV[:, start:end])
        if self.bias is not None:
            out_RV += self.bias.to(out_RV.device)
        if self.config.scale != 1.0:
            out_RV *= self.config.scale
        if self.config.softcap:
            out_RV.div_(self.config.softcap).tanh_().mul_(self.config.softcap)

    def tiles(self) -> Any:
        """`(start, end, floats)` of consecutive rows of the matrix."""
        m = self.matrix
        rows = max(1, _TILE_BYTES // (4 * m.num_columns))
        for start in range(0, m.num_rows, rows):
            end = min(m.num_rows, start + rows)
            out = m.bench.scratch((end - start) * m.num_columns)
            m.bench.read_rows(m, start, end, out)
            yield start, end, out.view(end - start, m.num_columns)

    @property
    def chunk_rows(self) -> int:
        return max(1, self.config.logits_bytes // (4 * self.matrix.num_rows))


class _CrossEntropy(torch.autograd.Function):
    """The gradient is computed along with the loss: logits need not be kept, nor computed again."""

    @staticmethod
    def forward(ctx: Any, x_RD: torch.Tensor, labels_R: torch.Tensor, head: Head) -> torch.Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        losses = x_RD.new_empty(len(x_RD))
        gradient = torch.empty_like(x_RD) if needs_gradient else None
        num_chunks = -(-len(x_RD) // head.chunk_rows)
        step = -(-len(x_RD) // num_chunks) if num_chunks else 1
        room = x_RD.new_empty(min(step, len(x_RD)), head.matrix.num_rows)
        for start in range(0, len(x_RD), step):
            x, labels = x_RD[start : start + step], labels_R[start : start + step]
            logits = room[: len(x)]
            head.write_logits(x, logits)
            chosen = logits.gather(1, labels[:, None])
            # In pieces: it makes a copy of what it is given.
            pieces = logits.split(_PIECE_ROWS)
            total = torch.cat([piece.logsumexp(1, keepdim=True) for piece in pieces])
            losses[start : start + step] = (total - chosen).squeeze(1)
            if gradient is not None:
                _to_gradient(logits, labels, total, head, gradient[start : start + step])
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None], None, None


def _to_gradient(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    total_R1: torch.Tensor,
    head: Head,
    out_RD: torch.Tensor,
) -> None:
    """Logits become their gradient, in place, and go back through the head into `out_RD`."""
    softcap, scale = head.config.softcap, head.config.scale
    slope = 1.0 - (logits_RV / softcap).square_() if softcap else None
    logits_RV.sub_(total_R1).exp_()
    logits_RV[torch.arange(len(labels_R)), labels_R] -= 1.0
    if slope is not None:
        logits_RV *= slope
    if scale != 1.0:
        logits_RV *= scale
    out_RD.zero_()
    for start, end, tile in head.tiles():
        out_RD.addmm_(logits_RV[:, start:end], tile.to(out_RD.device))
