"""How long the best route among many machines takes to find, and how far from the bound it is."""

import argparse
import time
from dataclasses import replace

import numpy as np

from baremetalrt.placement.planning import plan
from baremetalrt.placement.profiles import Demand, DeviceProfile, Link, ModelProfile, Network

GB = 10**9
# What sums of floats can be off by.
PROVEN = 1e-9
MODEL = ModelProfile(
    block_bytes=(400_000_000,) * 128,
    entry_bytes=GB,
    head_bytes=GB,
    cell_bytes=4096,
    row_bytes=32768,
    answer_bytes=512 * 1024,
)
ROOMY, TIGHT = (6, 8, 12, 16, 24, 32), (2, 3, 4, 6, 8)


def devices(rng: np.random.Generator, count: int, rooms: tuple[int, ...]) -> list[DeviceProfile]:
    """Machines from an old laptop to a graphics card."""
    return [
        DeviceProfile(
            id=f"d{i}",
            budget_bytes=int(rng.choice(rooms)) * GB,
            byte_s=float(rng.uniform(0.8, 1.2) / rng.choice([30e9, 60e9, 100e9, 400e9, 900e9])),
        )
        for i in range(count)
    ]


def network(rng: np.random.Generator, count: int, *, is_flat: bool) -> Network:
    """All links alike, or as far as points on a map are."""
    if is_flat:
        return Network(Link(0.005, 12.5e6))
    x_D2 = rng.random((count, 2))
    far_DD = np.hypot(*(x_D2[:, None] - x_D2[None]).transpose(2, 0, 1))
    links = {
        (f"d{a}", f"d{b}"): Link(0.0005 + 0.03 * float(far_DD[a, b]), 12.5e6)
        for a in range(count)
        for b in range(count)
        if a != b
    }
    return Network(Link(0.005, 12.5e6), links)


def half_full(rng: np.random.Generator, count: int) -> tuple[ModelProfile, list[DeviceProfile]]:
    """Small machines and a model that takes nearly half of what they have together."""
    machines = devices(rng, count, (3, 4, 6))
    room = sum(machine.budget_bytes for machine in machines)
    block_bytes = int(0.45 * room / 64)
    outer = GB // 4
    return replace(
        MODEL, block_bytes=(block_bytes,) * 64, entry_bytes=outer, head_bytes=outer
    ), machines


def timed(
    model: ModelProfile, machines: list[DeviceProfile], links: Network
) -> tuple[float, int, float]:
    """Seconds, stages, and how far the route is above what none can beat."""
    started = time.perf_counter()
    found = plan(model, machines, links, caller="d0", demand=Demand(8192))
    return time.perf_counter() - started, len(found.route), found.token_s / found.bound_s - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=200)
    count = parser.parse_args().devices
    for name, rooms in (("roomy", ROOMY), ("tight", TIGHT)):
        for is_flat in (True, False):
            rng = np.random.default_rng(7)
            machines, links = devices(rng, count, rooms), network(rng, count, is_flat=is_flat)
            seconds, stages, gap = timed(MODEL, machines, links)
            print(
                f"{count} {name} devices x 128 blocks, links {'alike' if is_flat else 'all different'}: "
                f"{seconds:.2f} s, {stages} stages, {100 * gap:.1f} % above the bound"
            )
    for few in (8, 12, 16, 24):
        found = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            model, machines = half_full(rng, few)
            found.append(timed(model, machines, network(rng, few, is_flat=False)))
        proven = sum(gap < PROVEN for _, _, gap in found)
        print(
            f"{few} devices x 64 blocks, links all different: {max(s for s, _, _ in found):.2f} s, "
            f"up to {max(n for _, n, _ in found)} stages, {proven} of {len(found)} proven the best, "
            f"the others at most {100 * max(gap for _, _, gap in found):.1f} % above the bound"
        )


if __name__ == "__main__":
    main()
