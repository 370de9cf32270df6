"""`bmrt plan`: which machines would run a model best, and how fast."""

import asyncio
from typing import Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes, parse_bytes
from baremetalrt.serve.library import find_whole_model, has_private_swarm
from baremetalrt.weights.store import StoredModel


@click.command("plan")
@click.argument("model", required=False, shell_complete=options.complete_model)
@click.option("--sessions", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option(
    "--memory", metavar="SIZE", help="What this machine gives.  [default: most of what is free]"
)
@click.option("--measure", is_flag=True, help="Time the route over what is hosted now, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.neighbour_options
@options.model_options
def command(model: str | None, as_json: bool, measure: bool, **arguments: Any) -> None:
    """Show which blocks of a model should run on which machine, and the seconds per token to expect.

    Asks the peers of the private swarm, if this machine is in one, and times a few blocks here. Speeds
    are those of decoding one text; links between two other machines are not measured, but taken to be
    like those from here.
    """
    report = asyncio.run(_report(find_whole_model(model), measure, arguments))
    if as_json:
        output.print_json(report)
    else:
        _print(report)


async def _report(stored: StoredModel, measure: bool, arguments: dict[str, Any]) -> dict[str, Any]:
    from contextlib import AsyncExitStack

    from baremetalrt.cli.over_peers import neighbours_of
    from baremetalrt.serve.forecast import describe, forecast, measured_token_s
    from baremetalrt.serve.opening import Opening

    budget = parse_bytes(arguments["memory"]) if arguments["memory"] else None
    config = options.node_config(arguments, max_sessions=arguments["sessions"])
    is_alone = not arguments["via"] and arguments["swarm"] is None and not has_private_swarm()
    opening = Opening(stored)
    async with AsyncExitStack() as stack:
        neighbours = None
        if not is_alone:
            neighbours, _ = await stack.enter_async_context(neighbours_of(arguments))
        found = await forecast(opening.file, config, neighbours, budget)
        measured_s = None
        if measure:
            if neighbours is None or found.hosted is None:
                raise UsageError(
                    "there is no route over peers to measure",
                    code="route.incomplete",
                    hint="`bmrt bench` measures this machine, `bmrt ps` lists what peers host",
                )
            measured_s = await measured_token_s(opening, config, neighbours)
    return {
        "model": stored.name,
        "context": found.context,
        "sessions": arguments["sessions"],
        "devices": [
            {
                "id": device.id,
                "budget_bytes": device.budget_bytes,
                "bytes_per_s": round(1 / device.byte_s) if device.byte_s else None,
            }
            for device in found.devices
        ],
        "plan": describe(found.best),
        "hosted": describe(found.hosted) if found.hosted else None,
        "measured_token_s": measured_s,
    }


def _print(report: dict[str, Any]) -> None:
    _print_route(f"best for {report['model']} with {report['context']} tokens:", report["plan"])
    gap = report["plan"]["token_s"] / report["plan"]["bound_s"] - 1
    if gap > 1e-6:
        print(f"nothing can be more than {100 * gap:.0f} % faster")
    used = {stage["device"] for stage in report["plan"]["route"]}
    for device in report["devices"]:
        if device["id"] not in used:
            print(f"{device['id'][:8]} is better left out")
    if report["hosted"]:
        print()
        _print_route("as peers host it now:", report["hosted"])
    if report["measured_token_s"] is not None:
        print(f"measured: {1000 * report['measured_token_s']:.1f} ms per token")


def _print_route(title: str, route: dict[str, Any]) -> None:
    print(title)
    output.print_table(
        ("MACHINE", "BLOCKS", "MEMORY", "MS PER TOKEN"),
        [
            (
                stage["device"][:8],
                f"{stage['start']}:{stage['end']}",
                format_bytes(stage["bytes"]),
                f"{1000 * stage['span_s']:.2f}",
            )
            for stage in route["route"]
        ],
    )
    print(
        f"expected: {1000 * route['token_s']:.1f} ms per token, "
        f"{1000 * route['hop_s']:.1f} ms of it between machines"
    )
