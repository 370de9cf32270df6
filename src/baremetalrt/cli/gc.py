"""`bmrt gc`: makes room, block by block."""

import time

import click

from baremetalrt.cli import output
from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes, parse_bytes


@click.command("gc")
@click.option(
    "--budget", metavar="SIZE", help="What fetched models may take.  [default: config.toml's]"
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(budget: str | None, dry_run: bool, as_json: bool) -> None:
    """Evict the blocks of fetched models that are worth least, until they fit the budget.

    Kept are blocks that are used often and that few others have. What is evicted is fetched again when a
    run needs it. Files seeded where they lie are never touched.
    """
    from baremetalrt.swarm import catalog
    from baremetalrt.swarm.config import config_path, load_config
    from baremetalrt.swarm.eviction import collect, plan_collection

    budget_bytes = parse_bytes(budget) if budget else load_config().disk_budget
    if not budget and not budget_bytes:
        raise UsageError(
            "no disk budget is set",
            code="gc.budget",
            hint=f'name one with --budget 20GiB, or in {config_path()}: disk_budget = "20 GiB"',
        )
    result = plan_collection(budget_bytes, now=time.time())
    if not dry_run:
        collect(result)
    names = {entry.id: entry.record().name for entry in catalog.entries()}
    by_model = {names[torrent]: blocks for torrent, blocks in result.by_torrent().items()}
    if as_json:
        output.print_json(
            {
                "used_bytes": result.used_bytes,
                "freed_bytes": result.freed_bytes,
                "budget_bytes": budget_bytes,
                "evicted": {name: sorted(blocks) for name, blocks in by_model.items()},
                "dry_run": dry_run,
            }
        )
        return
    for name, blocks in by_model.items():
        output.note(f"{name}: {'would evict' if dry_run else 'evicted'} {len(blocks)} blocks")
    left = result.used_bytes - result.freed_bytes
    output.note(
        f"{format_bytes(result.freed_bytes)} freed, {format_bytes(left)} used "
        f"of {format_bytes(budget_bytes)}"
    )
    if left > budget_bytes:
        output.note("the rest is in use, or no block: `bmrt rm` removes models whole")
