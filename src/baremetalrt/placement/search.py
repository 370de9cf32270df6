"""The cheapest sequence of spans in which no device comes twice: exact, by bounds and best-first search.

Where devices may come again, a dynamic program over (block, device) answers at once. That each comes at
most once is priced in by Lagrange multipliers, which makes the program's answer a bound that is nearly
always tight (M. Held, R. M. Karp 1971, for tours; the step is B. T. Polyak's, 1969). A* over real routes
with that bound finishes the proof.

Axes: D devices, B block boundaries 0 to num_blocks.
"""

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np

from baremetalrt.placement.improving import improve
from baremetalrt.placement.problem import Array, Route, RouteProblem

_MAX_STEPS: Final = 300
# A goal beyond the best route keeps steps long enough to get past where the bound stands still.
_OVERSHOOT: Final = 1.1
_STEP_SHRINK: Final = 0.7
_PATIENCE: Final = 10
# Ways on that the proof may look at: some seconds.
_MAX_WAYS: Final = 400_000
# How far from the bound a route may be and still count as the best: what sums of floats are worth.
_TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Answer:
    """The best route found, its seconds, and what no route can beat. None: there is no route."""

    route: Route | None
    seconds: float
    bound_s: float


def search(problem: RouteProblem) -> Answer:
    """The best route; it is proven to be the best where `seconds` equals `bound_s`."""
    if not len(problem.first_D):
        return Answer(None, np.inf, np.inf)
    prices_D = np.zeros(len(problem.first_D))
    best = _Best(problem)
    best.offer(_longest_first(problem))
    relaxed = _relax(problem, prices_D)
    if not np.isfinite(relaxed.bound):
        return Answer(None, np.inf, np.inf)
    best.offer(_follow(problem, relaxed, again=False))
    best.improve()
    tightest = _tighten(problem, relaxed, best)
    best.improve()
    bound = _finish(problem, tightest, best, _MAX_WAYS // len(prices_D))
    return Answer(best.route, best.seconds, min(bound, best.seconds))


class _Best:
    def __init__(self, problem: RouteProblem) -> None:
        self._problem = problem
        self.route: Route | None = None
        self.seconds = float("inf")

    def offer(self, route: Route | None) -> None:
        if route is not None and (seconds := self._problem.cost(route)) < self.seconds:
            self.route, self.seconds = route, seconds

    def improve(self) -> None:
        if self.route is not None:
            self.offer(improve(self._problem, self.route))

    @property
    def limit(self) -> float:
        """A bound from here on is not worth a look."""
        return self.seconds if self.route is None else self.seconds * (1 - _TOLERANCE)


@dataclass(frozen=True)
class _Relaxed:
    """Costs to go under prices, where devices may come again: a bound for all that may not."""

    prices_D: Array
    after_BD: Array  # at boundary b, from device d on
    begin_BD: Array  # at boundary b, when d takes what follows
    bound: float


def _relax(problem: RouteProblem, prices_D: Array) -> _Relaxed:
    end = problem.end
    num_devices = len(prices_D)
    after_BD = np.full((end + 1, num_devices), np.inf)
    begin_BD = np.full((end, num_devices), np.inf)
    after_BD[end] = problem.last_D
    for b in range(end - 1, -1, -1):
        begin_BD[b] = prices_D + (problem.span_DBB[:, b, b + 1 :] + after_BD[b + 1 :].T).min(axis=1)
        if b:
            after_BD[b] = (problem.hop_DD + begin_BD[b]).min(axis=1)
    bound = float((problem.first_D + begin_BD[0]).min() - prices_D.sum())
    return _Relaxed(prices_D, after_BD, begin_BD, bound)


def _follow(problem: RouteProblem, relaxed: _Relaxed, *, again: bool) -> Route | None:
    """The cheapest way by the relaxed costs; with `again`, devices may come more than once."""
    route: list[tuple[int, int, int]] = []
    b, ways_D = 0, problem.first_D
    closed_D = np.zeros(len(ways_D))
    while b < problem.end:
        costs_D = ways_D + relaxed.begin_BD[b] + closed_D
        d = int(costs_D.argmin())
        if not np.isfinite(costs_D[d]):
            return None
        k = b + 1 + int((problem.span_DBB[d, b, b + 1 :] + relaxed.after_BD[b + 1 :, d]).argmin())
        route.append((d, b, k))
        b, ways_D = k, problem.hop_DD[d]
        if not again:
            closed_D[d] = np.inf
    return tuple(route)


def _longest_first(problem: RouteProblem) -> Route | None:
    """A route by whoever holds most, where one exists that way: room first, speed later."""
    route: list[tuple[int, int, int]] = []
    open_devices = set(range(len(problem.first_D)))
    b = 0
    while b < problem.end:
        reach = {
            d: b + int(np.flatnonzero(np.isfinite(problem.span_DBB[d, b, b:])).max(initial=0))
            for d in open_devices
        }
        d = max(sorted(reach), key=lambda d: reach[d], default=-1)
        if d < 0 or reach[d] == b:
            return None
        route.append((d, b, reach[d]))
        open_devices.remove(d)
        b = reach[d]
    return tuple(route)


def _tighten(problem: RouteProblem, relaxed: _Relaxed, best: _Best) -> _Relaxed:
    """Raises the prices of devices that the relaxed answer uses more than once."""
    tightest, stride, idle = relaxed, 1.0, 0
    for _ in range(_MAX_STEPS):
        best.offer(_follow(problem, relaxed, again=False))
        if tightest.bound >= best.limit:
            break
        loose = _follow(problem, relaxed, again=True)
        if loose is None:
            break
        uses_D = np.bincount([d for d, _, _ in loose], minlength=len(relaxed.prices_D))
        slope_D = np.where((uses_D > 0) | (relaxed.prices_D > 0), uses_D - 1.0, 0.0)
        norm = float((slope_D**2).sum())
        if norm == 0:
            break
        goal = _OVERSHOOT * best.seconds if np.isfinite(best.seconds) else 2 * abs(relaxed.bound)
        step = stride * (goal - relaxed.bound) / norm
        relaxed = _relax(problem, np.maximum(0, relaxed.prices_D + step * slope_D))
        if relaxed.bound > tightest.bound:
            tightest, idle = relaxed, 0
        elif (idle := idle + 1) == _PATIENCE:
            relaxed, stride, idle = tightest, stride * _STEP_SHRINK, 0
    return tightest


def _finish(problem: RouteProblem, relaxed: _Relaxed, best: _Best, max_expansions: int) -> float:
    """Best-first search among real routes; returns the bound that is proven when it ends."""
    prices_D, end = relaxed.prices_D, problem.end
    # bound, minus blocks done, tie, seconds so far, boundary, devices used, route
    heap: list[tuple[float, int, int, float, frozenset[int], Route]] = [
        (relaxed.bound, 0, 0, 0.0, frozenset(), ())
    ]
    seen: dict[tuple[int, int, frozenset[int]], float] = {}
    ties = 0
    for _ in range(max_expansions):
        if not heap or heap[0][0] >= best.limit:
            return best.seconds
        _, minus_b, _, so_far, used, route = heapq.heappop(heap)
        b = -minus_b
        ways_D = problem.hop_DD[route[-1][0]] if route else problem.first_D
        costs_DK = (so_far + ways_D)[:, None] + problem.span_DBB[:, b, b + 1 :]
        costs_DK[list(used)] = np.inf
        # Only devices that are not used yet can still be paid for.
        unused = prices_D.sum() - prices_D[list(used)].sum()
        bounds_DK = costs_DK + relaxed.after_BD[b + 1 :].T - (unused - prices_D)[:, None]
        ends_D = costs_DK[:, -1] + problem.last_D
        if ends_D.min() < best.seconds:
            d = int(ends_D.argmin())
            best.offer((*route, (d, b, end)))
        may_win_DK = bounds_DK[:, :-1] < best.limit
        for d, offset in zip(*np.nonzero(may_win_DK), strict=True):
            k, now_used = b + 1 + int(offset), used | {int(d)}
            seconds = float(costs_DK[d, offset])
            state = (k, int(d), now_used)
            if seconds < seen.get(state, np.inf):
                seen[state] = seconds
                ties += 1
                step = (int(d), b, k)
                heapq.heappush(
                    heap,
                    (float(bounds_DK[d, offset]), -k, ties, seconds, now_used, (*route, step)),
                )
    return heap[0][0] if heap else best.seconds
