"""`bmrt ps`: which blocks of which model run where, and how busy they are."""

import asyncio

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
    from baremetalrt.hosting.span_reports import missing_blocks, span_reports

    rows = asyncio.run(span_reports(route, swarm))
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
    for name, missing in missing_blocks(rows).items():
        output.note(f"{name}: nobody hosts blocks {missing}")
    for row in rows:
        if row["called"] != row["name"]:
            output.note(f"{row['name']}: {row['peer'][:8]} calls it {row['called']}")
