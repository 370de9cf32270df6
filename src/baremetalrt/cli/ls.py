"""`bmrt ls`: the models that are here, and those that are arriving."""

from typing import Any

import click

from baremetalrt.cli import output
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.units import format_bytes
from baremetalrt.serve.library import models_and_torrents
from baremetalrt.swarm.catalog import Entry, Record
from baremetalrt.weights.store import StoredModel, models_folder


@click.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the models that are here: torrents, those in the store, and the embedded default."""
    models, torrents = models_and_torrents()
    rows = [_describe_torrent(entry, record) for entry, record in torrents]
    rows += [_describe(model) for model in models]
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


def _describe(model: StoredModel) -> dict[str, Any]:
    from baremetalrt.weights.gguf import GGUFFile

    row: dict[str, Any] = {
        "name": model.name,
        "path": str(model.path),
        "default": model.is_default,
        "infohash": None,
        "swarm": None,
        "here": "all",
        "architecture": None,
        "bytes": None,
        "error": None,
    }
    try:
        file = GGUFFile.open(model.path)
    except BareMetalError as error:
        bytes_here = model.path.stat().st_size if model.path.exists() else None
        return row | {"error": error.message, "bytes": bytes_here}
    return row | {"architecture": file.architecture, "bytes": file.num_bytes}


def _describe_torrent(entry: Entry, record: Record) -> dict[str, Any]:
    path = entry.model_paths(record)[0]
    row = _describe(StoredModel(record.name, path, is_default=False))
    here = "in place" if record.is_in_place else "all"
    if not record.is_complete:
        fraction = min(1.0, entry.allocated_bytes() / max(1, record.num_bytes))
        here = f"{100 * fraction:.0f} %"
        if row["architecture"] is None:
            row["error"] = "arriving"
    return row | {
        "here": here,
        "bytes": record.num_bytes,
        "infohash": record.infohash_v2 or record.infohash_v1,
        "swarm": record.swarm,
    }
