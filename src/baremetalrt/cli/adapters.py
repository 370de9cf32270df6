"""`bmrt adapters`: the LoRA adapters of this machine."""

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.adapter_files import export_command, import_command, merge_command
from baremetalrt.cli.adapter_torrents import pull_command, seed_command
from baremetalrt.core.units import format_bytes


@click.group("adapters")
def command() -> None:
    """List, import, export, merge and share LoRA adapters.

    `bmrt run MODEL --adapter NAME=0.7` uses one; `bmrt serve` answers for `MODEL:NAME`.
    """


for _one in (import_command, export_command, merge_command, seed_command, pull_command):
    command.add_command(_one)


@command.command("ls")
@options.JSON
def list_command(as_json: bool) -> None:
    """List the adapters that are here."""
    from baremetalrt.node.adapter_files import list_adapters

    rows = list_adapters()
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
@options.JSON
def show_command(name: str, as_json: bool) -> None:
    """Describe an adapter: its base, its rank, what it adapts, how private it is."""
    from baremetalrt.node.adapter_files import describe_adapter

    about = describe_adapter(name)
    if as_json:
        output.print_json(about)
        return
    for key, value in about.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        print(f"{key.replace('_', ' '):18} {'-' if shown is None else shown}")


@command.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@options.JSON
def remove_command(names: tuple[str, ...], as_json: bool) -> None:
    """Remove adapters, and stop sharing them. What others have fetched is theirs."""
    from baremetalrt.node.adapter_files import remove_adapters

    removed = remove_adapters(names)
    if as_json:
        output.print_json([{"name": name, "freed_bytes": freed} for name, freed in removed])
        return
    for name, freed in removed:
        output.note(f"removed {name}: {format_bytes(freed)} freed")
