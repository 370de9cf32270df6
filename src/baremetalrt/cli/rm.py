"""`bmrt rm`: removes models."""

from typing import Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes


@click.command("rm")
@click.argument("models", nargs=-1, required=True, shell_complete=options.complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(models: tuple[str, ...], as_json: bool) -> None:
    """Remove models from the store, and torrents with what they fetched.

    A file that was seeded where it lies stays: only its torrent is forgotten.
    """
    removed = [_remove(name) for name in models]
    if as_json:
        output.print_json(removed)
        return
    for model in removed:
        output.note(f"removed {model['name']}: {format_bytes(model['freed_bytes'])} freed")


def _remove(name: str) -> dict[str, Any]:
    from baremetalrt.swarm import catalog
    from baremetalrt.weights.gguf import GGUFFile
    from baremetalrt.weights.store import models_folder, stored_models

    found = catalog.find(name)
    if found is not None:
        entry, record = found
        with entry.locked():
            return {"name": record.name, "freed_bytes": entry.remove()}
    for model in stored_models():
        if name.lower() in (model.name.lower(), model.path.name.lower()):
            if model.is_default:
                raise UsageError(
                    f"{model.name} is the embedded default, which came with its package",
                    code="model.default",
                    hint="remove it with the tool that installed it",
                )
            freed = 0
            for path in GGUFFile.open(model.path).paths:
                freed += path.stat().st_size
                path.unlink()
            return {"name": model.name, "freed_bytes": freed}
    raise UsageError(
        f"no model {name!r} in the store",
        code="model.not-found",
        hint=f"`bmrt ls` lists what is here; files outside of {models_folder()} are not ours to remove",
    )
