"""`bmrt serve`: the OpenAI API over one or more models."""

import logging
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.run import named, over_peers
from baremetalrt.core.errors import UsageError
from baremetalrt.serve.library import TorrentReference
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.serve.background import Background
    from baremetalrt.serve.node import Node
    from baremetalrt.serve.sharing import Sharing
    from baremetalrt.swarm.config import ShareConfig


@click.command("serve")
@click.argument("models", nargs=-1, metavar="[MODEL…]", shell_complete=options.complete_model)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("-p", "--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--api-key", envvar="BMRT_API_KEY", metavar="KEY", help="Ask clients for it. [env BMRT_API_KEY]"
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="Requests answered at once.",
)
@click.option(
    "--queue",
    type=click.IntRange(0, 10000),
    default=32,
    show_default=True,
    help="Requests that may wait; further ones get status 429.",
)
@click.option("--metered", is_flag=True, help="Neither seed nor fetch but what is asked for.")
@click.option("--no-torrents", is_flag=True, help="Take part in no swarm at all.")
@click.option(
    "--share/--no-share", default=None, help="Host the models for peers of the private swarm."
)
@click.option("--share-blocks", metavar="A:B", help="Host only these blocks of the model.")
@click.option("--share-memory", metavar="SIZE", help="Give no more, for example 4GB.")
@click.option(
    "--share-listen",
    metavar="HOST:PORT",
    help="Where peers reach this machine.  [default: 0.0.0.0:7470]",
)
@options.route_options
@options.model_options
@options.swarm_options
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    parallel: int,
    queue: int,
    metered: bool,
    no_torrents: bool,
    share: bool | None,
    **arguments: Any,
) -> None:
    """Serve models over the OpenAI API, at /v1, and take part in their swarms.

    Listens on this machine alone unless --host says otherwise. Without MODEL: the embedded default. A
    MODEL may be a magnet link: it answers as it arrives. Torrents that `bmrt ls` lists are seeded, and
    fetched where something is missing; /torrents says how they are. SIGHUP reads config.toml again.

    With --share, or `enabled = true` under [share] in config.toml, the models are computed for members
    of the private swarm, who call with `bmrt run --route lan`. Where a model does not fit, the blocks
    are hosted that the swarm needs most, and only those are fetched. Without MODEL, it is whatever the
    swarm lacks. A model that is whole here answers over HTTP, too; one of which the rest is hosted
    elsewhere does with --route lan, as soon as peers have all of it.
    """
    from dataclasses import replace

    from baremetalrt.serve.app import Server, ServerConfig
    from baremetalrt.serve.background import Arriving, Background
    from baremetalrt.serve.listen import listen
    from baremetalrt.serve.node import Node
    from baremetalrt.serve.opening import Opening
    from baremetalrt.swarm.config import load_share_config

    share_config = load_share_config()
    shares = share_config.enabled if share is None else share
    if shares:
        models = models or share_config.models
        arguments["threads"] = arguments["threads"] or share_config.threads or None
    found = [named(name, arguments) for name in models or (() if shares else (None,))]
    fetched = tuple(model for model in found if isinstance(model, TorrentReference))
    stored = [model for model in found if isinstance(model, StoredModel)]
    if no_torrents and fetched:
        raise UsageError(
            "a model that is still to be fetched needs its swarm", hint="drop --no-torrents"
        )
    names = [model.name for model in stored]
    if len(set(names)) < len(names):
        raise UsageError("two models have the same name", hint="rename one of the files")
    config = ServerConfig(
        host=host, api_key=api_key or None, max_active=parallel, max_waiting=queue
    )
    logger = logging.getLogger("baremetalrt")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    node = Node(options.node_config(arguments, max_sessions=parallel))
    try:
        background = None
        if not no_torrents:
            swarm_config = options.swarm_config(arguments)
            if metered:
                swarm_config = replace(swarm_config, metered=True)
            arriving = Arriving(
                models=tuple(m for m in fetched if not (shares or over_peers(m, arguments))),
                peers=arguments["peers"],
                swarm=arguments["swarm"],
            )
            background = Background(node, swarm_config, arriving)
        beside: list[AbstractAsyncContextManager[object]] = []
        if shares:
            beside.append(_share(node, found, share_config, background, arguments))
            if arguments["route"] in ("lan", "swarm"):
                from baremetalrt.cli.over_peers import model_of_peers_later

                beside += [model_of_peers_later(node, one, arguments) for one in found]
        for one in () if shares else found:
            if over_peers(one, arguments):
                from baremetalrt.cli.over_peers import model_of_peers

                beside.append(model_of_peers(node, one, arguments))
                continue
            if isinstance(one, TorrentReference):
                continue
            with output.progress(f"loading {one.name}"):
                model = node.load(Opening(one))
            output.note(f"{model.name}: {model.context_limit} tokens of context")
        if not config.is_loopback and config.api_key is None:
            output.note(f"warning: anyone who reaches {host}:{port} can use it; see --api-key")
        application = Server(node, config, background, beside).application()
        listen(application, host=host, port=port, announce=_announce)
    finally:
        node.close()


def _share(
    node: "Node",
    models: "list[StoredModel | TorrentReference]",
    config: "ShareConfig",
    background: "Background | None",
    arguments: dict[str, Any],
) -> "Sharing":
    from baremetalrt.core.units import parse_bytes
    from baremetalrt.serve.fetching import RemoteSource
    from baremetalrt.serve.neighbours import local_network, the_membership
    from baremetalrt.serve.sharing import SharedModel, Sharing, SharingConfig

    blocks, memory = arguments["share_blocks"], arguments["share_memory"]
    if blocks is not None and len(models) != 1:
        raise UsageError("--share-blocks is about one model", parameter="share-blocks")
    span = options.block_span(blocks) if blocks is not None else None
    membership = the_membership(arguments["swarm"])
    address = arguments["share_listen"] or config.listen
    budget = parse_bytes(memory) if memory is not None else config.memory
    shared = [
        SharedModel(
            model
            if isinstance(model, StoredModel)
            else RemoteSource(model, arguments["peers"], arguments["swarm"]),
            span,
        )
        for model in models
    ]
    return Sharing(
        node,
        membership,
        shared,
        SharingConfig(
            address=address,
            budget_bytes=budget or None,
            network=local_network(membership, address.rpartition(":")[0]),
            peers=arguments["via"],
            allowed=frozenset(config.allow) or None,
            rebalance_s=config.rebalance_s,
        ),
        background,
    )


def _announce(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    output.note(f"listening on http://{shown}:{port}/v1")
