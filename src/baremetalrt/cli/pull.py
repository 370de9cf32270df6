"""`bmrt pull`: fetches a model, or a span of its blocks."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.cli.transfer import Display


@click.command("pull")
@click.argument("source", metavar="MAGNET|FILE.torrent|INFOHASH|NAME")
@click.option("--blocks", metavar="A:B", help="Only these blocks, and what they need to run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end.")
@options.swarm_options
def command(source: str, blocks: str | None, **arguments: Any) -> None:
    """Fetch a model from everyone who has it. What was fetched before is kept.

    While it runs, what is here is seeded to others.
    """
    asyncio.run(_pull(source, options.block_span(blocks) if blocks else None, arguments))


async def _pull(source: str, span: BlockSpan | None, arguments: dict[str, Any]) -> None:
    from baremetalrt.cli.transfer import Display
    from baremetalrt.serve.torrents import memberships_for
    from baremetalrt.swarm.client import SwarmClient

    config = options.swarm_config(arguments)
    memberships = memberships_for(arguments["swarm"])
    async with (
        SwarmClient(config, memberships=memberships) as client,
        Display().shown() as display,
    ):
        await _fetch(client, display, source, span, arguments)


async def _fetch(
    client: Any, display: "Display", source: str, span: BlockSpan | None, arguments: dict[str, Any]
) -> None:
    from baremetalrt.serve.fetching import fetch_span, open_header
    from baremetalrt.serve.torrents import obtain
    from baremetalrt.swarm.arrival import wait_for_header

    started = time.monotonic()
    display.status = "asking for the torrent"
    entry, peers = await obtain(client, source, peers=arguments["peers"], swarm=arguments["swarm"])
    display.status = "checking what is here"
    torrent = await client.add(entry, peers=peers)
    display.torrent = torrent
    file = display.file = await (open_header(torrent) if span else wait_for_header(torrent))
    await fetch_span(client, torrent, file, span)
    progress = torrent.progress()
    await client.save(torrent)
    seconds = time.monotonic() - started
    display.clear()
    path = entry.model_paths(entry.record())[0]
    if arguments["as_json"]:
        output.print_json(
            {
                "name": torrent.metainfo.name,
                "infohash_v1": torrent.metainfo.infohash_v1,
                "infohash_v2": torrent.metainfo.infohash_v2,
                "path": str(path),
                "bytes": progress.wanted_bytes,
                "downloaded_bytes": progress.downloaded_bytes,
                "wasted_bytes": progress.wasted_bytes,
                "bad_pieces": torrent.num_bad_pieces,
                "banned": torrent.banned,
                "seconds": round(seconds, 3),
                "complete": torrent.is_complete,
            }
        )
        return
    output.note(
        f"{torrent.metainfo.name}: {format_bytes(progress.wanted_bytes)} here, "
        f"{format_bytes(progress.downloaded_bytes)} fetched in {seconds:.1f} s"
    )
    print(path)
