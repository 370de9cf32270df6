"""`bmrt forget`: deletes everything that was derived from documents."""

import sys

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes


@click.command("forget")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.JSON
def command(name: str, yes: bool, as_json: bool) -> None:
    """Delete all that was learned as NAME: corpus, checkpoints, reports, adapter.

    Your documents stay where they are. Deleted files are not overwritten: a disk may hold their bytes
    until others take their place.
    """
    from baremetalrt.learning.forgetting import forget, plan_forgetting

    plan = plan_forgetting(name)
    for folder in plan.folders:
        output.note(f"{'deleting' if yes else 'to delete'}: {folder}")
    for torrent, infohash in plan.torrents:
        output.note(f"no longer seeded: {torrent} ({infohash})")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "nobody is there to be asked", code="forget.unconfirmed", hint="--yes to delete it"
            )
        click.confirm(f"delete {format_bytes(plan.num_bytes)}?", abort=True, err=True)
    forget(plan)
    if as_json:
        output.print_json(
            {
                "name": plan.name,
                "deleted": [str(folder) for folder in plan.folders],
                "freed_bytes": plan.num_bytes,
                "torrents": [infohash for _, infohash in plan.torrents],
                "beyond_reach": plan.beyond_reach,
            }
        )
        return
    output.note(f"forgot {plan.name}: {format_bytes(plan.num_bytes)} freed")
    output.note(f"beyond reach: {plan.beyond_reach}")
