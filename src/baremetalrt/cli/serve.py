"""`bmrt serve`: the OpenAI API over one or more models."""

import logging
from typing import Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import UsageError
from baremetalrt.weights.store import find_model


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
@options.model_options
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    parallel: int,
    queue: int,
    **arguments: Any,
) -> None:
    """Serve models over the OpenAI API, at /v1.

    Listens on this machine alone unless --host says otherwise. Without MODEL: the embedded default.
    """
    from baremetalrt.serve.app import Server, ServerConfig
    from baremetalrt.serve.listen import listen
    from baremetalrt.serve.node import Node
    from baremetalrt.serve.opening import Opening

    found = [find_model(name) for name in models or (None,)]
    names = [model.name for model in found]
    if len(set(names)) < len(names):
        raise UsageError("two models have the same name", hint="rename one of the files")
    config = ServerConfig(
        host=host, api_key=api_key or None, max_active=parallel, max_waiting=queue
    )
    logging.getLogger("baremetalrt").addHandler(logging.StreamHandler())
    node = Node(options.node_config(arguments, max_sessions=parallel))
    try:
        for stored in found:
            with output.progress(f"loading {stored.name}"):
                model = node.load(Opening(stored))
            output.note(f"{model.name}: {model.context_limit} tokens of context")
        if not config.is_loopback and config.api_key is None:
            output.note(f"warning: anyone who reaches {host}:{port} can use it; see --api-key")
        listen(Server(node, config).application(), host=host, port=port, announce=_announce)
    finally:
        node.close()


def _announce(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    output.note(f"listening on http://{shown}:{port}/v1")
