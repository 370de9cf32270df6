"""`bmrt ps`: what is loaded on this machine, and which blocks of which model run where in the swarm."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes, format_duration
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.node.options import SwarmOptions

if TYPE_CHECKING:
    from baremetalrt.node.presence import RunningProcess


@click.command("ps")
@options.neighbour_options
@options.JSON
def command(as_json: bool, route: RouteOptions, swarm: SwarmOptions) -> None:
    """List what is loaded here, and the spans that peers of the private swarm host now.

    MEMORY is weights that stay, what others pass through on their way from the disk, and keys and values.
    """
    from baremetalrt.node.naming import has_private_swarm
    from baremetalrt.node.presence import running_processes

    processes = running_processes()
    asks_peers = bool(route.via) or has_private_swarm()
    rows: list[dict[str, Any]] = []
    if asks_peers:
        from baremetalrt.hosting.span_reports import span_reports

        rows = asyncio.run(span_reports(route, swarm))
    if as_json:
        output.print_json({"processes": [one.as_json() for one in processes], "spans": rows})
        return
    if processes:
        _print_processes(processes)
    else:
        output.note("nothing is loaded here; `bmrt serve` and `bmrt run` load models")
    if rows:
        _print_spans(rows)
    elif asks_peers:
        output.note(
            "nobody hosts anything; `bmrt serve --share MODEL` on a machine of the swarm does"
        )


def _print_processes(processes: "list[RunningProcess]") -> None:
    now = time.time()
    table = []
    for one in processes:
        for m in one.models:
            held = m.weight_bytes + m.window_bytes + m.cache_bytes
            disk = format_bytes(m.streamed_bytes) if m.streamed_bytes else "-"
            table.append(
                (
                    m.name,
                    m.blocks,
                    m.device,
                    format_bytes(held),
                    disk,
                    str(m.context),
                    f"{one.command} ({one.pid})",
                    f"{format_duration(now - m.since)} ago",
                    f"{format_duration(now - m.used)} ago",
                )
            )
    output.print_table(
        ("HERE", "BLOCKS", "DEVICE", "MEMORY", "FROM DISK", "CONTEXT", "PROCESS", "LOADED", "USED"),
        table,
    )
    for one in processes:
        limit = f" of {format_bytes(one.limit_bytes)}" if one.limit_bytes else ""
        output.note(f"process {one.pid} holds {format_bytes(one.resident_bytes)}{limit} in all")


def _print_spans(rows: list[dict[str, Any]]) -> None:
    from baremetalrt.hosting.span_reports import missing_blocks

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
