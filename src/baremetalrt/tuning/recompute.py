"""Gradient checkpointing of blocks: only what enters each of them is kept, the rest is computed again.

The first pass records nothing at all. Autograd's records are small and live long; between the large and
short-lived results of a block they keep the C allocator from using any of its memory again, and the heap
grew to twice its size within a pass.
"""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from baremetalrt.tuning.matrices import Workbench


class Recomputation:
    """What `transformers` calls in place of a block while gradients are wanted."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def __call__(self, block: Any, hidden_BTD: torch.Tensor, *others: Any) -> Any:
        if not hidden_BTD.requires_grad:
            # The first block: without a gradient of its input, nothing would lead back into it.
            hidden_BTD = hidden_BTD.detach().requires_grad_()
        return checkpoint(self._run, block, hidden_BTD, *others, use_reentrant=True)

    def _run(self, block: Any, hidden_BTD: torch.Tensor, *others: Any) -> Any:
        if not torch.is_grad_enabled():
            return block(hidden_BTD, *others)
        # The second pass: its matrices are needed again on the way back, right after it.
        self._bench.start_keeping()
        try:
            return block(hidden_BTD, *others)
        finally:
            self._bench.stop_keeping()
