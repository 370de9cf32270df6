"""`bmrt adapters seed` and `pull`: an adapter travels as a torrent, and names its base in its file."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import UsageError

if TYPE_CHECKING:
    from baremetalrt.weights.adapters.store import StoredAdapter


@click.command("seed")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Write the torrent here.",
)
@click.option("--tracker", "trackers", multiple=True, metavar="URL", help="Repeatable.")
@click.option("--create-only", is_flag=True, help="Make the torrent, do not seed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per adapter.")
@options.swarm_options
def seed_command(names: tuple[str, ...], **arguments: Any) -> None:
    """Publish adapters and seed them until Ctrl-C.

    Whoever has an adapter can find out something of what it was trained on.
    """
    from baremetalrt.cli import seed
    from baremetalrt.weights.adapters.store import find_adapter

    paths = []
    for name in names:
        stored = find_adapter(name)
        if stored.card().base_content_id is None:
            raise UsageError(
                f"the adapter {stored.name} does not say which model it belongs to",
                code="adapter.base-unknown",
                hint=f"import it with its base: `bmrt adapters import {stored.gguf_path} --base MODEL`",
            )
        output.note(f"{stored.name}: {_privacy(stored)}")
        paths.append(str(stored.gguf_path))
    publish: Any = seed.command.callback
    publish(tuple(paths), web_seeds=(), private=False, **arguments)


def _privacy(stored: "StoredAdapter") -> str:
    privacy = stored.card().privacy
    if isinstance(privacy, str):
        return f"{privacy}; what it was trained on can be found out in part"
    return f"differentially private, epsilon {privacy.epsilon:g}, delta {privacy.delta:g}"


@click.command("pull")
@click.argument("source", metavar="MAGNET|FILE.torrent|INFOHASH|NAME")
@click.option("--name", help="Call it so.  [default: its own name]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end.")
@options.swarm_options
def pull_command(source: str, name: str | None, as_json: bool, **arguments: Any) -> None:
    """Fetch an adapter and put it into the store. `bmrt serve` seeds it on."""
    asyncio.run(_pull(source, name, as_json, arguments))


async def _pull(source: str, name: str | None, as_json: bool, arguments: dict[str, Any]) -> None:
    from baremetalrt.cli.transfer import Display
    from baremetalrt.serve.adapter_fetching import fetch_adapter
    from baremetalrt.serve.torrents import memberships_for
    from baremetalrt.swarm.client import SwarmClient

    config = options.swarm_config(arguments)
    async with (
        SwarmClient(config, memberships=memberships_for(arguments["swarm"])) as client,
        Display().shown() as display,
    ):
        display.status = "asking for the torrent"
        stored = await fetch_adapter(
            client,
            source,
            name=name,
            peers=arguments["peers"],
            swarm=arguments["swarm"],
        )
        display.clear()
    card = stored.card()
    if as_json:
        about = {"name": stored.name, "folder": str(stored.folder)}
        output.print_json(
            about | {"base_content_id": card.base_content_id, "base_name": card.base_name}
        )
        return
    output.note(f"{stored.name}: an adapter of {card.base_name or card.base_content_id}")
    print(stored.folder)
