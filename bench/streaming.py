"""Models larger than the memory there is, under a real cap and on a disk of a declared rate.

Both sides run in a control group with the same limits: `bmrt` streams, llama.cpp pages the mapped file
(without reordered copies, prompts in steps of 64). Prints tokens per second of both, the ratio, and for
ours the share of the bound: the bytes that a token must read over the disk's rate. Needs Linux, control
groups of version 1 and the rights to make them.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import large_model
from baremetalrt.core.units import MIB
from baremetalrt.devices.processor import default_threads
from caps import Cap, available
from processes import Worker

CONTEXT = 1024
SHARE = 1 / 3
RATES_MB = (200, 1000)
PROMPT = [(i * 104729) % 30000 + 1000 for i in range(16)]
LONG = [(i * 7919) % 30000 + 1000 for i in range(512)]


def arguments_for(model: Path) -> dict[str, Any]:
    threads = default_threads()
    return {"model": str(model), "context": CONTEXT, "num_threads": threads, "num_sequences": 1}


def drop_caches() -> None:
    """Nothing of the file is in memory when a side begins."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def measure(
    side: str, model: Path, rate_mb: int, num_tokens: int, prompt: list[int]
) -> dict[str, Any]:
    """One answer of one side from its start; speeds in tokens per second."""
    arguments = arguments_for(model)
    script = "engine_worker.py"
    if side == "llama.cpp":
        script, arguments = "llama_cpp_worker.py", arguments | {"least_memory": True}
    drop_caches()
    with Cap(int(model.stat().st_size * SHARE), rate_mb * 1_000_000, model) as cap:
        with Worker(script, arguments, cap.join) as worker:
            before = cap.read_bytes
            answer = worker.ask({"prompts": [prompt], "num_tokens": num_tokens})
            found = {
                "decode": (num_tokens - 1) / answer["decode_s"] if num_tokens > 1 else 0.0,
                "prefill": len(prompt) / answer["prefill_s"],
                "read_bytes": cap.read_bytes - before,
            }
            if side == "bmrt":
                found["weights"] = worker.ask("weights")
        found |= {"peak_bytes": cap.peak_bytes, "num_kills": cap.num_kills}
    return found


def compare(model: Path, rate_mb: int, num_tokens: int, pairs: int) -> None:
    """Decoding after a short prompt, sides in turn."""
    ratios, ours, theirs = [], [], []
    for pair in range(pairs):
        found = {}
        for side in ("bmrt", "llama.cpp") if pair % 2 else ("llama.cpp", "bmrt"):
            found[side] = measure(side, model, rate_mb, num_tokens, PROMPT)
        ours.append(found["bmrt"])
        theirs.append(found["llama.cpp"])
        ratios.append(found["bmrt"]["decode"] / found["llama.cpp"]["decode"])
    mine = statistics.median(one["decode"] for one in ours)
    other = statistics.median(one["decode"] for one in theirs)
    weights = ours[-1]["weights"]
    cap = int(model.stat().st_size * SHARE)
    print(
        f"  decode at {rate_mb:5} MB/s  {mine:7.3f} against {other:7.3f} tokens/s: "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    if weights["hit_rate"] is None:
        bound = rate_mb * 1e6 / weights["streamed_bytes"]
        stay, slots = weights["resident_bytes"] / MIB, weights["slots_bytes"] / MIB
        print(
            f"    of the bound {mine / bound:.2f}: {weights['streamed_bytes'] / 1e6:.0f} MB a token, "
            f"{stay:.0f} MiB stay, {slots:.0f} MiB of slots"
        )
    else:
        print(
            f"    experts found in memory {weights['hit_rate']:.2f}, "
            f"{weights['read_bytes'] / 1e6 / (num_tokens + len(PROMPT)):.1f} MB read a token"
        )
    print(
        f"    cap {cap / MIB:.0f} MiB, peak {max(one['peak_bytes'] for one in ours) / MIB:.0f} and "
        f"{max(one['peak_bytes'] for one in theirs) / MIB:.0f} MiB, "
        f"kills {sum(one['num_kills'] for one in ours)} and {sum(one['num_kills'] for one in theirs)}"
    )


def prefill(model: Path, rate_mb: int, pairs: int) -> None:
    """512 tokens at once, against what reading or computing alone would take."""

    with Worker("engine_worker.py", arguments_for(model)) as worker:
        computed = min(
            worker.ask({"prompts": [LONG[i:] + LONG[:i]], "num_tokens": 1})["prefill_s"]
            for i in range(pairs)
        )
    shares = []
    for _ in range(pairs):
        found = measure("bmrt", model, rate_mb, 1, LONG)
        took = len(LONG) / found["prefill"]
        read = found["weights"]["streamed_bytes"] / (rate_mb * 1e6)
        shares.append(max(read, computed) / took)
    print(
        f"  prefill of 512 at {rate_mb} MB/s: of the bound max(read, compute) "
        f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--only", choices=("dense", "mixture"))
    given = parser.parse_args()
    if not available():
        print(
            "streaming: needs control groups of version 1, and rights to make them", file=sys.stderr
        )
        return
    for name, make, num_tokens in (
        ("dense", large_model.dense, given.tokens),
        ("mixture", large_model.mixture, 8 * given.tokens),
    ):
        if given.only not in (None, name):
            continue
        model = make()
        size = model.stat().st_size
        print(f"{name}, {size / 1e6:.0f} MB, in {SHARE * size / MIB:.0f} MiB")
        for rate_mb in RATES_MB:
            compare(model, rate_mb, num_tokens, given.pairs)
        if name == "dense":
            for rate_mb in RATES_MB:
                prefill(model, rate_mb, given.pairs)


if __name__ == "__main__":
    main()
