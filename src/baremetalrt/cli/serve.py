"""`bmrt serve`: the APIs of OpenAI, Ollama and Anthropic over one or more models."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.model_display import ModelDisplay
from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.hosting.options import RouteOptions, ShareOptions
from baremetalrt.node.options import ModelOptions, SwarmOptions

if TYPE_CHECKING:
    from baremetalrt.serve.events import Event


@click.command("serve")
@click.argument("models", nargs=-1, metavar="[MODEL…]", shell_complete=options.complete_model)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("-p", "--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    envvar="BMRT_API_KEY",
    metavar="KEY",
    help="Ask clients for it; several, for clients that share nothing. [env BMRT_API_KEY]",
)
@click.option(
    "--tls",
    metavar="FILE",
    help="Answer over TLS, with a PEM file of certificate and key, or by 'swarm': the authority of a "
    "private swarm that was created here signs one.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The key of --tls, if it is in a file of its own.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Pages that may use the server, as https://page.example, or '*'.",
)
@click.option(
    "--allow-host",
    "host_names",
    multiple=True,
    metavar="NAME",
    help="A name of this machine by which it may be asked.",
)
@click.option(
    "--public-system",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A system text that all clients send and may know of: computed once, for all keys.",
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
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse requests with fields that nobody knows, instead of ignoring them.",
)
@click.option(
    "--keep-alive",
    type=options.DURATION,
    default="30m",
    show_default=True,
    metavar="TIME",
    help="How long a model that was not named here stays in memory after its last use.",
)
@click.option("--metered", is_flag=True, help="Neither seed nor fetch but what is asked for.")
@click.option("--no-torrents", is_flag=True, help="Take part in no swarm at all.")
@click.option(
    "--share/--no-share", default=None, help="Host the models for peers of the private swarm."
)
@click.option(
    "--share-blocks",
    type=options.BLOCKS,
    metavar="A:B",
    help="Host only these blocks of the model.",
)
@click.option(
    "--share-memory", type=options.SIZE, metavar="SIZE", help="Give no more, for example 4GB."
)
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
    api_keys: tuple[str, ...],
    tls: str | None,
    tls_key: Path | None,
    origins: tuple[str, ...],
    host_names: tuple[str, ...],
    public_system: Path | None,
    parallel: int,
    queue: int,
    strict: bool,
    keep_alive: float,
    metered: bool,
    no_torrents: bool,
    share: bool | None,
    share_blocks: BlockSpan | None,
    share_memory: int | None,
    share_listen: str | None,
    route: RouteOptions,
    options: ModelOptions,
    swarm: SwarmOptions,
) -> None:
    """Serve models over the APIs of OpenAI, Ollama and Anthropic, and take part in their swarms.

    Listens on this machine alone unless --host says otherwise. Without MODEL: the embedded default, and
    every other model of this machine when it is asked for. A MODEL may be a magnet link: it answers as
    it arrives. Torrents that `bmrt ls` lists are seeded, and
    fetched where something is missing; /torrents says how they are. SIGHUP reads config.toml again;
    what options say holds on. A server whose terminal closes ends, unless `nohup` started it.

    With --share, or `enabled = true` under [share] in config.toml, the models are computed for members
    of the private swarm, who call with `bmrt run --route lan`. Where a model does not fit, the blocks
    are hosted that the swarm needs most, and only those are fetched. Without MODEL, it is whatever the
    swarm lacks. A model that is whole here answers over HTTP, too; one of which the rest is hosted
    elsewhere does with --route lan, as soon as peers have all of it.
    """
    from dataclasses import replace

    from baremetalrt.serve.app import ServerConfig
    from baremetalrt.serve.gate import GateConfig
    from baremetalrt.serve.serving import ServeRequest, serve
    from baremetalrt.serve.tls import TlsConfig

    if tls_key is not None and tls is None:
        raise UsageError("--tls-key needs --tls", parameter="tls-key")
    request = ServeRequest(
        models=models,
        port=port,
        server=ServerConfig(
            gate=GateConfig(
                host=host,
                api_keys=tuple(key for key in api_keys if key),
                origins=origins,
                host_names=host_names,
            ),
            max_active=parallel,
            max_waiting=queue,
            is_strict=strict,
        ),
        options=replace(
            options,
            max_sessions=parallel,
            public_system=public_system.read_text("utf-8-sig", "replace")
            if public_system
            else None,
        ),
        route=route,
        swarm=replace(swarm, metered=metered),
        share=ShareOptions(
            enabled=share, blocks=share_blocks, memory=share_memory, listen=share_listen
        ),
        takes_part=not no_torrents,
        keep_alive_s=keep_alive,
        tls=TlsConfig(certificate=tls, key=tls_key) if tls else None,
    )
    with _ServerDisplay() as display:
        serve(request, display.on_event)


class _ServerDisplay(ModelDisplay):
    """Says which models are served, and where."""

    def on_event(self, event: "Event") -> None:
        from baremetalrt.node.events import Loaded
        from baremetalrt.serve.events import Exposed, Listening, Preparing, Waiting

        if isinstance(event, Listening):
            shown = f"[{event.host}]" if ":" in event.host else event.host
            scheme = "https" if event.is_secure else "http"
            if event.authority is not None:
                output.note(f"clients have to trust {event.authority}")
            output.note(f"listening on {scheme}://{shown}:{event.port}/v1")
        elif isinstance(event, Waiting):
            output.note(
                f"{event.model}: no room beside the others; it is loaded when it is asked for"
            )
        elif isinstance(event, Preparing):
            output.note(
                f"{event.model}: computing {event.num_tokens} tokens that all may begin with"
            )
        elif isinstance(event, Exposed):
            output.note(
                f"warning: anyone who reaches {event.host}:{event.port} can use it; see --api-key"
            )
        else:
            super().on_event(event)
            if isinstance(event, Loaded):
                where = ", over peers" if event.is_over_peers else ""
                output.note(f"{event.name}: {event.context_limit} tokens of context{where}")
