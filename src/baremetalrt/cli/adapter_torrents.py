"""`bmrt adapters seed` and `pull`: an adapter travels as a torrent, and names its base in its file."""

import asyncio
from pathlib import Path

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.seed import publish_and_seed
from baremetalrt.cli.torrent_display import TorrentDisplay
from baremetalrt.node.options import SwarmOptions


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
def seed_command(
    names: tuple[str, ...],
    target: Path | None,
    trackers: tuple[str, ...],
    create_only: bool,
    as_json: bool,
    swarm: SwarmOptions,
) -> None:
    """Publish adapters and seed them until Ctrl-C.

    Whoever has an adapter can find out something of what it was trained on.
    """
    from baremetalrt.node.adapter_files import shareable
    from baremetalrt.node.publishing import PublishRequest

    paths = []
    for name in names:
        adapter, privacy = shareable(name)
        output.note(f"{adapter.name}: {privacy}")
        paths.append(str(adapter.gguf_path))
    request = PublishRequest(models=paths, trackers=trackers, swarm=swarm.swarm)
    publish_and_seed(request, swarm, target=target, create_only=create_only, as_json=as_json)


@click.command("pull")
@click.argument("source", metavar="MAGNET|FILE.torrent|INFOHASH|NAME")
@click.option("--name", help="Call it so.  [default: its own name]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end.")
@options.swarm_options
def pull_command(source: str, name: str | None, as_json: bool, swarm: SwarmOptions) -> None:
    """Fetch an adapter and put it into the store. `bmrt serve` seeds it on."""
    from baremetalrt.node.adapter_torrents import pull_adapter

    with TorrentDisplay() as display:
        stored = asyncio.run(pull_adapter(source, name, swarm, display.on_event))
    card = stored.card()
    if as_json:
        about = {"name": stored.name, "folder": str(stored.folder)}
        output.print_json(
            about | {"base_content_id": card.base_content_id, "base_name": card.base_name}
        )
        return
    output.note(f"{stored.name}: an adapter of {card.base_name or card.base_content_id}")
    print(stored.folder)
