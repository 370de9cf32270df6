"""How long the best route among many machines takes to find, and how far from the bound it is."""

import argparse
import time

import numpy as np

from baremetalrt.placement.planning import plan
from baremetalrt.placement.profiles import Demand, DeviceProfile, Link, ModelProfile, Network

GB = 10**9
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=200)
    count = parser.parse_args().devices
    for name, rooms in (("roomy", ROOMY), ("tight", TIGHT)):
        for is_flat in (True, False):
            rng = np.random.default_rng(7)
            machines, links = devices(rng, count, rooms), network(rng, count, is_flat=is_flat)
            started = time.perf_counter()
            found = plan(MODEL, machines, links, caller="d0", demand=Demand(8192))
            seconds = time.perf_counter() - started
            print(
                f"{count} {name} devices x 128 blocks, links {'alike' if is_flat else 'all different'}: "
                f"{seconds:.2f} s, {len(found.route)} stages, "
                f"{100 * (found.token_s / found.bound_s - 1):.1f} % above the bound"
            )


if __name__ == "__main__":
    main()
