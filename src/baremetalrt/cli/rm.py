"""`bmrt rm`: removes models."""

from dataclasses import asdict

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes


@click.command("rm")
@click.argument("models", nargs=-1, required=True, shell_complete=options.complete_model)
@options.JSON
def command(models: tuple[str, ...], as_json: bool) -> None:
    """Remove models from the store, and torrents with what they fetched.

    A file that was seeded where it lies stays: only its torrent is forgotten.
    """
    from baremetalrt.node.removal import remove_model

    removed = [remove_model(name) for name in models]
    if as_json:
        output.print_json([asdict(one) for one in removed])
        return
    for one in removed:
        output.note(f"removed {one.name}: {format_bytes(one.freed_bytes)} freed")
