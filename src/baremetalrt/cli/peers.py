"""`bmrt peers`: who of the private swarm answers, and what they offer."""

import asyncio
from typing import Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes


@click.command("peers")
@options.neighbour_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool, **arguments: Any) -> None:
    """List the peers of the private swarm that answer now, with speed, round trip and version."""
    from baremetalrt.cli.over_peers import reports

    rows = asyncio.run(reports(arguments))
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
