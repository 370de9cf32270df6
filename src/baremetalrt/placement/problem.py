"""What a search for a route is given: the seconds of every choice.

Axes: D devices, B block boundaries 0 to num_blocks.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RouteProblem:
    """Seconds of every choice; infinite where it is none.

    `span_DBB[d, j, k]`: blocks j to k on d. `hop_DD[d, e]`: from d to e. `first_D`: from the caller.
    `last_D`: to the caller.
    """

    span_DBB: Array
    hop_DD: Array
    first_D: Array
    last_D: Array

    @property
    def end(self) -> int:
        return int(self.span_DBB.shape[1]) - 1

    def cost(self, route: "Route") -> float:
        devices = [d for d, _, _ in route]
        hops = sum(self.hop_DD[a, b] for a, b in pairwise(devices))
        spans = sum(self.span_DBB[stage] for stage in route)
        return float(self.first_D[devices[0]] + spans + hops + self.last_D[devices[-1]])


Route = tuple[tuple[int, int, int], ...]  # (device, first block, block after the last)
