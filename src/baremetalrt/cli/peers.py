"""`bmrt peers`: who of the private swarm answers, and what they offer."""

import asyncio

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.node.options import SwarmOptions


@click.command("peers")
@options.neighbour_options
@options.JSON
def command(as_json: bool, route: RouteOptions, swarm: SwarmOptions) -> None:
    """List the peers of the private swarm that answer now, with speed, round trip and version."""
    from baremetalrt.hosting.plans import peer_reports

    rows = asyncio.run(peer_reports(route, swarm))
    if as_json:
        output.print_json(rows)
        return
    if not rows:
        output.note("nobody answers; `bmrt serve --share` on another machine of the swarm does")
        return
    output.print_table(
        ("PEER", "ADDRESS", "ROUND TRIP", "SPEED", "GIVES", "SPANS", "VERSION"),
        [
            (
                row["id"][:8],
                row["address"],
                f"{1000 * row['round_trip_s']:.1f} ms",
                f"{row['bytes_per_s'] / 1e9:.1f} GB/s" if row["bytes_per_s"] else "-",
                format_bytes(row["budget_bytes"]),
                str(len(row["spans"])),
                row["release"],
            )
            for row in rows
        ],
    )
