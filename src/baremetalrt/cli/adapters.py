"""`bmrt adapters`: the LoRA adapters of this machine."""

from typing import Any

import click

from baremetalrt.cli import output
from baremetalrt.cli.adapter_files import export_command, import_command, merge_command
from baremetalrt.cli.adapter_torrents import pull_command, seed_command
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.units import format_bytes

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("adapters")
def command() -> None:
    """List, import, export, merge and share LoRA adapters.

    `bmrt run MODEL --adapter NAME=0.7` uses one; `bmrt serve` answers for `MODEL:NAME`.
    """


for _one in (import_command, export_command, merge_command, seed_command, pull_command):
    command.add_command(_one)


@command.command("ls")
@_json
def list_adapters(as_json: bool) -> None:
    """List the adapters that are here."""
    from baremetalrt.weights.adapters.store import stored_adapters

    rows = []
    for stored in stored_adapters():
        row: dict[str, Any] = {"name": stored.name, "bytes": stored.num_bytes, "error": None}
        try:
            rows.append(row | _describe(stored.card()))
        except BareMetalError as error:
            rows.append(row | {"error": error.message})
    if as_json:
        output.print_json(rows)
        return
    if not rows:
        output.note("no adapters; `bmrt adapters import` or `bmrt adapters pull` brings one")
        return
    output.print_table(
        ("NAME", "BASE", "ARCHITECTURE", "RANK", "SIZE"),
        [
            (
                r["name"],
                r.get("base_name") or (r.get("base_content_id") or "")[:12] or "-",
                r["error"] or r["architecture"],
                r.get("rank", "-"),
                format_bytes(r["bytes"]),
            )
            for r in rows
        ],
    )


@command.command("show")
@click.argument("name")
@_json
def show(name: str, as_json: bool) -> None:
    """Describe an adapter: its base, its rank, what it adapts, how private it is."""
    from baremetalrt.weights.adapters.store import find_adapter, load

    stored = find_adapter(name)
    adapter = load(stored)
    targets = sorted({name.split(".")[-2] for name in adapter.matrices})
    about = {"name": stored.name, **_describe(stored.card())} | {
        "method": "DoRA" if adapter.is_dora else "LoRA",
        "targets": targets,
        "folder": str(stored.folder),
        "bytes": stored.num_bytes,
    }
    if as_json:
        output.print_json(about)
        return
    for key, value in about.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        print(f"{key.replace('_', ' '):18} {'-' if shown is None else shown}")


@command.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@_json
def remove(names: tuple[str, ...], as_json: bool) -> None:
    """Remove adapters, and stop sharing them. What others have fetched is theirs."""
    from baremetalrt.serve.adapter_fetching import forget_torrents
    from baremetalrt.weights.adapters import store

    found = [store.find_adapter(name) for name in names]
    for one in found:
        forget_torrents(one)
    removed = [(one.name, store.remove(one)) for one in found]
    if as_json:
        output.print_json([{"name": name, "freed_bytes": freed} for name, freed in removed])
        return
    for name, freed in removed:
        output.note(f"removed {name}: {format_bytes(freed)} freed")


def _describe(card: Any) -> dict[str, Any]:
    """A card as JSON, without its version."""
    import msgspec

    about: dict[str, Any] = msgspec.to_builtins(card)
    about.pop("format")
    about.pop("name")
    return about
