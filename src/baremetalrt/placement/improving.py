"""Makes a route better by small changes of its order of devices, until none helps.

For a given order the best cuts are a dynamic program. Changes: put another device in a place or between
two, leave one out, reverse a stretch, move one (after S. Lin 1965, and I. Or 1976, for tours).

Axes: D devices, B block boundaries.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from baremetalrt.placement.problem import Array, Route, RouteProblem

_MAX_ROUNDS: Final = 40
# What a sum of floats can be off by.
_WORTH_IT: Final = 1 - 1e-12
# Beyond so many places, only what is changed in one of them is tried: pairs would take seconds.
_MAX_PAIRED: Final = 24


def improve(problem: RouteProblem, route: Route) -> Route:
    """A route that is at least as good, and that no small change makes better."""
    order, seconds = [d for d, _, _ in route], problem.cost(route)
    for _ in range(_MAX_ROUNDS):
        found, better = min(
            (_best_single(problem, order), _best_rearranged(problem, order)), key=lambda f: f[0]
        )
        if found >= seconds * _WORTH_IT:
            break
        order, seconds = better, found
    cut = _cut(problem, order)
    return min(route, cut, key=problem.cost)


def _ways_in(problem: RouteProblem, order: Sequence[int]) -> list[Array]:
    """By place: the seconds until a boundary, by the devices before it, without the hop to it."""
    ways = [np.full(problem.end + 1, np.inf)]
    ways[0][0] = 0.0
    for i, d in enumerate(order):
        hop = problem.first_D[d] if i == 0 else problem.hop_DD[order[i - 1], d]
        ways.append((ways[-1][:, None] + problem.span_DBB[d]).min(axis=0) + hop)
    return ways


def _ways_out(problem: RouteProblem, order: Sequence[int]) -> list[Array]:
    """By place: the seconds from a boundary on, by the devices from it on, without the hop to it."""
    ways = [np.full(problem.end + 1, np.inf)]
    ways[0][-1] = 0.0
    for i in range(len(order) - 1, -1, -1):
        d = order[i]
        hop = problem.last_D[d] if i == len(order) - 1 else problem.hop_DD[d, order[i + 1]]
        ways.append((problem.span_DBB[d] + ways[-1]).min(axis=1) + hop)
    return ways[::-1]


def _best_single(problem: RouteProblem, order: list[int]) -> tuple[float, list[int]]:
    """Another device in a place or between two, or one left out."""
    before, after = _ways_in(problem, order), _ways_out(problem, order)
    best = np.inf, order
    for i in range(len(order) + 1):
        in_D = problem.first_D if i == 0 else problem.hop_DD[order[i - 1]]
        done_DB = in_D[:, None] + (before[i][None, :, None] + problem.span_DBB).min(axis=1)
        # What follows: nothing is taken out, or the device of this place.
        for j in (i, i + 1) if i < len(order) else (i,):
            out_D = problem.last_D if j == len(order) else problem.hop_DD[:, order[j]]
            seconds_D = (done_DB + after[j]).min(axis=1) + out_D
            seconds_D[order] = np.inf
            d = int(seconds_D.argmin())
            best = min(best, (float(seconds_D[d]), [*order[:i], d, *order[j:]]))
        if i < len(order) > 1:
            rest = [*order[:i], *order[i + 1 :]]
            best = min(best, (_seconds(problem, rest), rest))
    return best


def _best_rearranged(problem: RouteProblem, order: list[int]) -> tuple[float, list[int]]:
    if len(order) > _MAX_PAIRED:
        return np.inf, order
    return min(
        ((_seconds(problem, way), way) for way in _rearranged(order)), default=(np.inf, order)
    )


def _rearranged(order: list[int]) -> Iterator[list[int]]:
    """Stretches reversed, and single devices moved."""
    for i, j in combinations(range(len(order) + 1), 2):
        if j - i > 1:
            yield [*order[:i], *order[i:j][::-1], *order[j:]]
    for i, d in enumerate(order):
        rest = [*order[:i], *order[i + 1 :]]
        # Neighbours that change places are a stretch of two.
        yield from ([*rest[:j], d, *rest[j:]] for j in range(len(order)) if abs(i - j) > 1)


def _seconds(problem: RouteProblem, order: Sequence[int]) -> float:
    return float(_ways_in(problem, order)[-1][-1] + problem.last_D[order[-1]])


def _cut(problem: RouteProblem, order: Sequence[int]) -> Route:
    """The route with the best cuts for an order that has one."""
    before, route, k = _ways_in(problem, order), [], problem.end
    for i in range(len(order) - 1, -1, -1):
        j = int((before[i] + problem.span_DBB[order[i], :, k]).argmin())
        route.append((order[i], j, k))
        k = j
    return tuple(route[::-1])
