"""`bmrt ps`: which blocks of which model run where, and how busy they are."""

import asyncio
from collections import defaultdict
from typing import Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.node.options import SwarmOptions


@click.command("ps")
@options.neighbour_options
@options.JSON
def command(as_json: bool, route: RouteOptions, swarm: SwarmOptions) -> None:
    """List the spans that peers of the private swarm host now: blocks, memory, speed, load."""
    from baremetalrt.hosting.plans import peer_reports

    rows = _spans(asyncio.run(peer_reports(route, swarm)))
    if as_json:
        output.print_json(rows)
        return
    if not rows:
        output.note(
            "nobody hosts anything; `bmrt serve --share MODEL` on a machine of the swarm does"
        )
        return
    output.print_table(
        ("MODEL", "BLOCKS", "PEER", "MEMORY", "STEP", "TEXTS"),
        [
            (
                row["name"],
                f"{row['start']}:{row['end']} of {row['num_blocks']}",
                row["peer"][:8],
                format_bytes(row["num_bytes"]),
                f"{1000 * row['step_s']:.1f} ms",
                str(row["num_texts"]),
            )
            for row in rows
        ],
    )
    for name, missing in _missing(rows).items():
        output.note(f"{name}: nobody hosts blocks {missing}")


def _spans(peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    spans = [{"peer": one["id"]} | span for one in peers for span in one["spans"]]
    return sorted(spans, key=lambda s: (s["name"], s["model"], s["start"], s["end"], s["peer"]))


def _missing(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Blocks of models that nobody has, as ranges."""
    there: dict[str, set[int]] = defaultdict(set)
    total: dict[str, int] = {}
    for row in rows:
        there[row["name"]].update(range(row["start"], row["end"]))
        total[row["name"]] = row["num_blocks"]
    missing = {}
    for name, num_blocks in total.items():
        gaps = [b for b in range(num_blocks) if b not in there[name]]
        starts = [b for b in gaps if b - 1 not in gaps]
        ends = [b + 1 for b in gaps if b + 1 not in gaps]
        if gaps:
            missing[name] = ", ".join(f"{a}:{b}" for a, b in zip(starts, ends, strict=True))
    return missing
