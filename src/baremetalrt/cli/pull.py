"""`bmrt pull`: fetches a model, or a span of its blocks."""

import asyncio
import os
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.torrent_display import TorrentDisplay
from baremetalrt.core.errors import UsageError
from baremetalrt.core.magnet_links import with_choice
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes
from baremetalrt.node.options import SwarmOptions

if TYPE_CHECKING:
    from baremetalrt.node.fetching import Pulled


@click.command("pull")
@click.argument("source", metavar="MAGNET|FILE.torrent|INFOHASH|NAME|hf:OWNER/REPO[:QUANT]")
@click.option(
    "--blocks",
    type=options.BLOCKS,
    metavar="A:B",
    help="Only these blocks, and what they need to run.",
)
@options.FILE
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end.")
@options.swarm_options
def command(
    source: str, blocks: BlockSpan | None, file: str | None, as_json: bool, swarm: SwarmOptions
) -> None:
    """Fetch a model from everyone who has it. What was fetched before is kept.

    While it runs, what is here is seeded to others. Of a torrent with several models, one is fetched: the
    one that --file names, or what stands behind a colon: FILE.torrent:Q4_K_M.

    `hf:OWNER/REPO` is a repository of the hub that HF_ENDPOINT names, or Hugging Face's. Of several files
    the one is fetched that fits this machine, or that QUANT says; it becomes a torrent, with that address
    as a web seed. Where a machine on the local network offers that very file, by the hash that the hub
    says, it comes from there. Names such as `qwen2.5-coder:0.5b` are those of `bmrt index ls`.
    """
    from baremetalrt.node.fetching import PullRequest, is_for_members, pull
    from baremetalrt.node.naming import find_torrent, is_hub_name

    content: str | None = None
    if not os.path.exists(source) and find_torrent(source) is None:
        from baremetalrt.node.names import found_by

        if (found := found_by(source)) is not None:
            output.note(f"{source} is {found.source}, as the list {found.publisher} has it")
            source, content = found.source, found.content
    if is_hub_name(source):
        named = f"{source}:{file}" if file else source
        _pull_from_hub(named, blocks, swarm, content, as_json=as_json)
        return
    source = with_choice(source, file) if file else source
    request = PullRequest(source=source, content=content, blocks=blocks, swarm=swarm)

    async def work(display: TorrentDisplay) -> "Pulled":
        if not await asyncio.to_thread(is_for_members, request):
            return await pull(request, display.on_event)
        from baremetalrt.hosting.host import as_member

        async with as_member():
            return await pull(request, display.on_event)

    try:
        with TorrentDisplay() as display:
            pulled = asyncio.run(work(display))
    except UsageError as error:
        if error.code == "model.not-found":
            error.hint = _hint_for(source) or error.hint
        raise
    if as_json:
        output.print_json(
            {
                "name": pulled.name,
                "infohash_v1": pulled.infohash_v1,
                "infohash_v2": pulled.infohash_v2,
                "path": str(pulled.path),
                "bytes": pulled.wanted_bytes,
                "downloaded_bytes": pulled.downloaded_bytes,
                "wasted_bytes": pulled.wasted_bytes,
                "bad_pieces": pulled.num_bad_pieces,
                "banned": pulled.banned,
                "seconds": round(pulled.seconds, 3),
                "complete": pulled.is_complete,
            }
        )
        return
    output.note(
        f"{pulled.name}: {format_bytes(pulled.wanted_bytes)} here, "
        f"{format_bytes(pulled.downloaded_bytes)} fetched in {pulled.seconds:.1f} s"
    )
    print(pulled.path)


def _hint_for(name: str) -> str | None:
    """What may be meant by a name that nothing here has."""
    from baremetalrt.hosting.nearby import hint_nearby
    from baremetalrt.node.names import hint_for

    return hint_nearby(name) or hint_for(name)


def _pull_from_hub(
    source: str,
    blocks: BlockSpan | None,
    swarm: SwarmOptions,
    content: str | None,
    *,
    as_json: bool,
) -> None:
    from baremetalrt.hosting.nearby import hub_offers
    from baremetalrt.node.hub_models import pull_from_hub
    from baremetalrt.node.names import require_content

    if blocks is not None:
        raise UsageError(
            "blocks are fetched from peers alone",
            code="hub.blocks",
            parameter="blocks",
            hint="pull the whole model, or name a torrent",
        )
    with TorrentDisplay() as display:
        pulled = pull_from_hub(source, display.on_event, swarm=swarm, offers=hub_offers)
    metainfo = pulled.torrent.metainfo
    require_content(content, metainfo)
    if as_json:
        output.print_json(
            {
                "name": pulled.name,
                "path": str(pulled.path),
                "bytes": metainfo.num_bytes,
                "torrent": str(pulled.torrent.entry.metainfo_path),
                "magnet": metainfo.magnet,
                "infohash_v1": metainfo.infohash_v1,
                "infohash_v2": metainfo.infohash_v2,
            }
        )
        return
    output.note(f"{pulled.name} is here; others fetch it from this machine by")
    output.note(metainfo.magnet)
    print(pulled.path)
