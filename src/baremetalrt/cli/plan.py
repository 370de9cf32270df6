"""`bmrt plan`: which machines would run a model best, and how fast."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes
from baremetalrt.hosting.open_model import find_named
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.node.options import ModelOptions, SwarmOptions

if TYPE_CHECKING:
    from baremetalrt.hosting.plans import Placement, Plan


@click.command("plan")
@click.argument("model", required=False, shell_complete=options.complete_model)
@click.option("--sessions", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--measure", is_flag=True, help="Time the route over what is hosted now, too.")
@options.JSON
@options.neighbour_options
@options.model_options
def command(
    model: str | None,
    sessions: int,
    measure: bool,
    as_json: bool,
    route: RouteOptions,
    swarm: SwarmOptions,
    options: ModelOptions,
) -> None:
    """Show which blocks of a model should run on which machine, and the seconds per token to expect.

    Asks the peers of the private swarm, if this machine is in one, and times a few blocks here. Of MODEL,
    the header is enough, and peers that host it have that. Speeds
    are those of decoding one text; links between two other machines are not measured, but taken to be
    like those from here.
    """
    from baremetalrt.hosting.plans import PlanRequest, make_plan

    request = PlanRequest(
        model=find_named(model, route),
        # What this machine gives to the model: not what planning may take.
        options=replace(options, max_sessions=sessions, memory_bytes=None),
        route=route,
        swarm=swarm,
        budget_bytes=options.memory_bytes,
        measures=measure,
    )
    report = _describe(sessions, asyncio.run(make_plan(request)))
    if as_json:
        output.print_json(report)
    else:
        _print(report)


def _describe(sessions: int, plan: "Plan") -> dict[str, Any]:
    return {
        "model": plan.model,
        "context": plan.context,
        "sessions": sessions,
        "devices": [
            {
                "id": device.id,
                "budget_bytes": device.budget_bytes,
                "bytes_per_s": round(1 / device.byte_s),
            }
            for device in plan.devices
        ],
        "unmeasured": list(plan.unmeasured),
        "plan": _describe_placement(plan.best),
        "hosted": _describe_placement(plan.hosted) if plan.hosted else None,
        "measured_token_s": plan.measured_token_s,
    }


def _describe_placement(placement: "Placement") -> dict[str, Any]:
    return {
        "route": [
            {
                "device": placed.device,
                "start": placed.blocks.start,
                "end": placed.blocks.end,
                "bytes": placed.held_bytes,
                "span_s": placed.span_s,
            }
            for placed in placement.route
        ],
        "token_s": placement.token_s,
        "hop_s": placement.hop_s,
        "bound_s": placement.bound_s,
    }


def _print(report: dict[str, Any]) -> None:
    _print_route(f"best for {report['model']} with {report['context']} tokens:", report["plan"])
    gap = report["plan"]["token_s"] / report["plan"]["bound_s"] - 1
    if gap > 1e-6:
        print(f"nothing can be more than {100 * gap:.0f} % faster")
    used = {stage["device"] for stage in report["plan"]["route"]}
    for device in report["devices"]:
        if device["id"] not in used:
            print(f"{_short(device['id'])} is better left out")
    for peer in report["unmeasured"]:
        print(f"{_short(peer)} has not measured how fast it is, and is left out")
    if report["hosted"]:
        print()
        _print_route("as peers host it now:", report["hosted"])
    if report["measured_token_s"] is not None:
        print(f"measured: {1000 * report['measured_token_s']:.1f} ms per token")


def _short(device: str) -> str:
    """The first letters of a peer's id; this machine and its devices by their names."""
    from baremetalrt.hosting.neighbours import HERE

    return device if device.partition("/")[0] == HERE else device[:8]


def _print_route(title: str, route: dict[str, Any]) -> None:
    print(title)
    output.print_table(
        ("MACHINE", "BLOCKS", "MEMORY", "MS PER TOKEN"),
        [
            (
                _short(stage["device"]),
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
