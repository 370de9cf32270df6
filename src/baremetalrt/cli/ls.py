"""`bmrt ls`: the models that are here."""

from typing import Any

import click

from baremetalrt.cli import output
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.units import format_bytes
from baremetalrt.weights.store import StoredModel, models_folder, stored_models


@click.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the models that are here: those in the store, and the embedded default."""
    rows = [_describe(model) for model in stored_models()]
    if as_json:
        output.print_json(rows)
        return
    if not rows:
        output.note(f"no models; put GGUF files into {models_folder()}")
        return
    output.print_table(
        ("NAME", "ARCHITECTURE", "SIZE", "PATH"),
        [
            (
                r["name"] + (" (default)" if r["default"] else ""),
                r["architecture"] or r["error"],
                format_bytes(int(r["bytes"] or 0)),
                r["path"],
            )
            for r in rows
        ],
    )


def _describe(model: StoredModel) -> dict[str, Any]:
    from baremetalrt.weights.gguf import GGUFFile

    row: dict[str, Any] = {
        "name": model.name,
        "path": str(model.path),
        "default": model.is_default,
        "architecture": None,
        "bytes": None,
        "error": None,
    }
    try:
        file = GGUFFile.open(model.path)
    except BareMetalError as error:
        return row | {"error": error.message, "bytes": model.path.stat().st_size}
    return row | {"architecture": file.architecture, "bytes": file.num_bytes}
