"""`bmrt seed`: publishes a model file and seeds it until told to stop."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import UsageError

if TYPE_CHECKING:
    from baremetalrt.swarm.catalog import Entry
    from baremetalrt.swarm.metainfo import Metainfo


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
def command(models: tuple[str, ...], **arguments: Any) -> None:
    """Publish model or LoRA files and seed them in place, until Ctrl-C.

    The same file gives the same torrent on every machine and under any name. Of a FOLDER, every GGUF file
    is seeded. NAME seeds, again, a model that `bmrt ls` lists. The files themselves are never written to.
    """
    from baremetalrt.swarm.authority import find_membership

    swarm = find_membership(arguments["swarm"]) if arguments["swarm"] else None
    sources = [source for model in models for source in _sources(model)]
    if len(sources) > 1 and (arguments["target"] or arguments["web_seeds"]):
        raise UsageError("--output and --web-seed are for one model at a time")
    found = []
    for source in sources:
        entry, metainfo = _entry(source, arguments, swarm)
        found.append(entry)
        _print(entry, metainfo, arguments)
    if not arguments["create_only"]:
        asyncio.run(_seed(found, arguments))


def _sources(model: str) -> list[str]:
    """The models that an argument names: a folder stands for those in it."""
    if not Path(model).is_dir():
        return [model]
    from baremetalrt.weights.store import models_in

    paths = [str(path) for path in models_in(Path(model))]
    if not paths:
        raise UsageError(f"no GGUF files in {model}", code="model.not-found")
    return paths


def _print(entry: "Entry", metainfo: "Metainfo", arguments: dict[str, Any]) -> None:
    torrent = arguments["target"] or entry.metainfo_path
    if arguments["target"]:
        arguments["target"].write_bytes(metainfo.raw)
    if arguments["as_json"]:
        output.print_json(
            {
                "name": metainfo.name,
                "magnet": metainfo.magnet,
                "infohash_v1": metainfo.infohash_v1,
                "infohash_v2": metainfo.infohash_v2,
                "torrent": str(torrent),
                "pieces": metainfo.pieces.num_pieces,
                "piece_bytes": metainfo.pieces.piece_bytes,
                "bytes": metainfo.num_bytes,
            }
        )
    else:
        print(metainfo.magnet)
        output.note(f"{metainfo.name}: {metainfo.pieces.num_pieces} pieces, torrent at {torrent}")
    sys.stdout.flush()


def _entry(model: str, arguments: dict[str, Any], swarm: Any) -> "tuple[Entry, Metainfo]":
    from baremetalrt.serve.torrents import publish_file, read_torrent_file
    from baremetalrt.swarm import catalog
    from baremetalrt.swarm.publishing import PublishOptions
    from baremetalrt.weights.store import find_model

    known = catalog.find(model)
    if known is not None:
        return known[0], read_torrent_file(known[0].metainfo_path)
    path = find_model(model).path
    for url in (*arguments["web_seeds"], *arguments["trackers"]):
        if "://" not in url:
            raise UsageError(
                f"{url!r} is not a URL", hint="for example http://mirror.lan/model.gguf"
            )
    with output.progress(f"hashing {path.name}"):
        return publish_file(
            path,
            PublishOptions(
                trackers=arguments["trackers"],
                web_seeds=arguments["web_seeds"],
                private=arguments["private"],
                authority_pem=swarm.authority_pem if swarm else None,
            ),
            swarm=swarm,
        )


async def _seed(found: "list[Entry]", arguments: dict[str, Any]) -> None:
    from baremetalrt.serve.torrents import memberships_for
    from baremetalrt.swarm.client import SwarmClient

    config = options.swarm_config(arguments)
    swarms = {entry.record().swarm for entry in found}
    memberships = [m for swarm in swarms for m in memberships_for(swarm)]
    async with SwarmClient(config, memberships=memberships) as client:
        torrents = [
            await client.add(entry, peers=arguments["peers"], fetches=False) for entry in found
        ]
        ports = {
            client.secure_port if t.metainfo.needs_certificate else client.listen_port
            for t in torrents
        }
        listed = " and ".join(str(port) for port in sorted(ports))
        output.note(f"seeding on port {listed}; Ctrl-C ends it")
        await asyncio.Event().wait()
