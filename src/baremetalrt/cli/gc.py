"""`bmrt gc`: makes room, block by block."""

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes


@click.command("gc")
@click.option(
    "--budget",
    type=options.SIZE,
    metavar="SIZE",
    help="What fetched models may take.  [default: config.toml's]",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option(
    "--prompt-cache",
    is_flag=True,
    help="Forget what was computed of texts instead, and is kept on disk; see `bmrt doctor`.",
)
@options.JSON
def command(budget: int | None, dry_run: bool, prompt_cache: bool, as_json: bool) -> None:
    """Evict the blocks of fetched models that are worth least, until they fit the budget.

    Kept are blocks that are used often and that few others have. What is evicted is fetched again when a
    run needs it. Files seeded where they lie are never touched.
    """
    if prompt_cache:
        _forget_texts(as_json=as_json, dry_run=dry_run)
        return
    from baremetalrt.node.removal import evict_to_fit

    evicted = evict_to_fit(budget, dry_run=dry_run)
    if as_json:
        output.print_json(
            {
                "used_bytes": evicted.used_bytes,
                "freed_bytes": evicted.freed_bytes,
                "budget_bytes": evicted.budget_bytes,
                "evicted": evicted.blocks,
                "dry_run": dry_run,
            }
        )
        return
    for name, blocks in evicted.blocks.items():
        output.note(f"{name}: {'would evict' if dry_run else 'evicted'} {len(blocks)} blocks")
    output.note(
        f"{format_bytes(evicted.freed_bytes)} freed, {format_bytes(evicted.left_bytes)} used "
        f"of {format_bytes(evicted.budget_bytes)}"
    )
    if evicted.left_bytes > evicted.budget_bytes:
        output.note("the rest is in use, or no block: `bmrt rm` removes models whole")


def _forget_texts(*, as_json: bool, dry_run: bool) -> None:
    from baremetalrt.node.removal import forget_texts

    texts = forget_texts(dry_run=dry_run)
    if as_json:
        freed = {"texts": texts.count, "freed_bytes": texts.num_bytes, "dry_run": dry_run}
        output.print_json(freed)
        return
    what = "would be forgotten" if dry_run else "forgotten"
    output.note(f"{texts.count} texts {what}, {format_bytes(texts.num_bytes)}")
