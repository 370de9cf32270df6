"""`bmrt seed`: publishes a model file and seeds it until told to stop."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.torrent_display import TorrentDisplay
from baremetalrt.core.errors import UsageError
from baremetalrt.node.options import SwarmOptions

if TYPE_CHECKING:
    from baremetalrt.node.publishing import Published, PublishRequest


@click.command("seed")
@click.argument(
    "models",
    nargs=-1,
    required=True,
    metavar="FILE|FOLDER|NAME…",
    shell_complete=options.complete_model,
)
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), help="Write the torrent here."
)
@click.option("--web-seed", "web_seeds", multiple=True, metavar="URL", help="A mirror of the file.")
@click.option("--tracker", "trackers", multiple=True, metavar="URL", help="Repeatable.")
@click.option("--private", is_flag=True, help="Peers come from trackers alone (BEP 27).")
@click.option("--create-only", is_flag=True, help="Make the torrent, do not seed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per model.")
@options.swarm_options
def command(
    models: tuple[str, ...],
    target: Path | None,
    web_seeds: tuple[str, ...],
    trackers: tuple[str, ...],
    private: bool,
    create_only: bool,
    as_json: bool,
    swarm: SwarmOptions,
) -> None:
    """Publish model or LoRA files and seed them in place, until Ctrl-C.

    The same file gives the same torrent on every machine and under any name. Of a FOLDER, every GGUF file
    is seeded. NAME seeds, again, a model that `bmrt ls` lists. The files themselves are never written to.
    """
    from baremetalrt.node.publishing import PublishRequest

    request = PublishRequest(
        models=models,
        trackers=trackers,
        web_seeds=web_seeds,
        private=private,
        swarm=swarm.swarm,
    )
    publish_and_seed(request, swarm, target=target, create_only=create_only, as_json=as_json)


def publish_and_seed(
    request: "PublishRequest",
    swarm: SwarmOptions,
    *,
    target: Path | None,
    create_only: bool,
    as_json: bool,
) -> None:
    """Makes the torrents, prints what names them, and seeds them unless told not to."""
    from baremetalrt.node.publishing import publish

    sources = request.sources()
    if len(sources) > 1 and (target or request.web_seeds):
        raise UsageError("--output and --web-seed are for one model at a time")
    made = []
    for source in sources:
        with TorrentDisplay() as display:
            published = publish(request, source, display.on_event)
        made.append(published)
        _print(published, target, as_json=as_json)
    if not create_only:
        asyncio.run(_seed(made, swarm))


async def _seed(made: "Sequence[Published]", swarm: SwarmOptions) -> None:
    from baremetalrt.hosting.offering import offered
    from baremetalrt.node.publishing import seeding

    async with AsyncExitStack() as stack:
        if any(one.torrent.entry.record.swarm for one in made):
            from baremetalrt.hosting.host import keep_standing
            from baremetalrt.hosting.options import ShareOptions

            await stack.enter_async_context(keep_standing(ShareOptions(), None, swarm, None))
        client, ports = await stack.enter_async_context(seeding(made, swarm))
        await stack.enter_async_context(offered(lambda: client, swarm.config()))
        listed = " and ".join(str(port) for port in ports)
        output.note(f"seeding on port {listed}; Ctrl-C ends it")
        await asyncio.Event().wait()


def _print(published: "Published", target: Path | None, *, as_json: bool) -> None:
    metainfo = published.torrent.metainfo
    path = target or published.torrent.entry.metainfo_path
    if target:
        published.write(target)
    if as_json:
        output.print_json(
            {
                "name": metainfo.name,
                "magnet": metainfo.magnet,
                "infohash_v1": metainfo.infohash_v1,
                "infohash_v2": metainfo.infohash_v2,
                "torrent": str(path),
                "pieces": metainfo.pieces.num_pieces,
                "piece_bytes": metainfo.pieces.piece_bytes,
                "bytes": metainfo.num_bytes,
            }
        )
    else:
        print(metainfo.magnet)
        output.note(f"{metainfo.name}: {metainfo.pieces.num_pieces} pieces, torrent at {path}")
    sys.stdout.flush()
