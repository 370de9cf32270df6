"""`bmrt ls`: the models that are here, and those that are arriving."""

import click

from baremetalrt.cli import options, output
from baremetalrt.core.places import models_folder
from baremetalrt.core.units import format_bytes
from baremetalrt.node.listing import list_models


@click.command("ls")
@options.JSON
def command(as_json: bool) -> None:
    """List the models that are here: torrents, those in the store, and the embedded default."""
    rows = list_models()
    if as_json:
        output.print_json(rows)
        return
    if not rows:
        output.note(f"no models; `bmrt pull` one, or put GGUF files into {models_folder()}")
        return
    output.print_table(
        ("NAME", "ARCHITECTURE", "SIZE", "HERE", "PATH"),
        [
            (
                r["name"] + (" (default)" if r["default"] else ""),
                r["architecture"] or r["error"],
                format_bytes(int(r["bytes"] or 0)),
                r["here"],
                r["path"],
            )
            for r in rows
        ],
    )
