"""Options that several commands share."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from baremetalrt.serve.node import NodeConfig
    from baremetalrt.session.grammar import Grammar
    from baremetalrt.session.sampling import SamplingOptions
    from baremetalrt.swarm.config import SwarmConfig

F = TypeVar("F", bound=Callable[..., Any])


_VIA = click.option(
    "--via",
    multiple=True,
    metavar="HOST:PORT",
    help="Ask the peers there (`bmrt serve --share`), not the local network. Repeatable.",
)


def complete_model(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Names in the store, and files."""
    from click.shell_completion import CompletionItem

    from baremetalrt.weights.store import stored_models

    names = [m.name for m in stored_models() if m.name.lower().startswith(incomplete.lower())]
    return [*(CompletionItem(n) for n in names), CompletionItem(incomplete, type="file")]


def model_options(command: F) -> F:
    """How a model is loaded."""
    for option in reversed(
        (
            click.option(
                "--context",
                type=click.IntRange(min=1),
                metavar="TOKENS",
                help="Longest text, prompt and answer together.  [default: the model's, "
                "memory permitting]",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1, 512),
                metavar="N",
                help="Compute threads.  [default: physical cores]",
            ),
            click.option("--device", default="cpu", show_default=True, help="See `bmrt doctor`."),
            click.option(
                "--no-repack",
                is_flag=True,
                help="Keep all weights in the mapped file: less memory, slower on some types.",
            ),
            click.option(
                "--chat-template",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="A Jinja template to use instead of the model's own.",
            ),
        )
    ):
        command = option(command)
    return command


def sampling_options(command: F) -> F:
    """How tokens are chosen."""
    for option in reversed(
        (
            click.option(
                "-t", "--temperature", type=float, default=0.7, show_default=True, help="0: greedy."
            ),
            click.option("--top-k", type=int, default=40, show_default=True, help="0: off."),
            click.option("--top-p", type=float, default=0.95, show_default=True, help="1: off."),
            click.option("--min-p", type=float, default=0.05, show_default=True, help="0: off."),
            click.option("--repetition-penalty", type=float, default=1.0, show_default=True),
            click.option("--presence-penalty", type=float, default=0.0, show_default=True),
            click.option("--frequency-penalty", type=float, default=0.0, show_default=True),
            click.option("--seed", type=int, help="Makes sampling repeatable."),
        )
    ):
        command = option(command)
    return command


def swarm_options(command: F) -> F:
    """How this command takes part in swarms; `config.toml` says the rest."""
    for option in reversed(
        (
            click.option(
                "--peer", "peers", multiple=True, metavar="HOST:PORT", help="Ask this peer too."
            ),
            click.option("--offline", is_flag=True, help="Send nothing beyond the local network."),
            click.option("--swarm", metavar="NAME", help="The private swarm; see `bmrt swarm`."),
            click.option("--swarm-port", type=click.IntRange(0, 65534), help="0: any free port."),
            click.option("--limit-down", metavar="RATE", help="For example 2MB/s."),
            click.option("--limit-up", metavar="RATE", help="For example 500KB/s."),
        )
    ):
        command = option(command)
    return command


def route_options(command: F) -> F:
    """Where a model runs."""
    for option in reversed(
        (
            click.option(
                "--route",
                type=click.Choice(["auto", "local", "lan", "swarm"]),
                default="auto",
                show_default=True,
                help="Run here, or on peers of the local network, or of the whole swarm. auto: here, "
                "unless it does not fit.",
            ),
            click.option(
                "--activations",
                type=click.Choice(["f32", "f16", "q8"]),
                default="f32",
                show_default=True,
                help="How peers pass numbers on. Fewer bits, for thin links, change answers a little.",
            ),
            _VIA,
        )
    ):
        command = option(command)
    return command


def neighbour_options(command: F) -> F:
    """Which peers of a private swarm are asked."""
    for option in reversed(
        (
            click.option("--swarm", metavar="NAME", help="The private swarm; see `bmrt swarm`."),
            click.option(
                "--route",
                type=click.Choice(["lan", "swarm"]),
                default="lan",
                show_default=True,
                help="Ask peers of the local network, or of the whole swarm.",
            ),
            _VIA,
        )
    ):
        command = option(command)
    return command


def block_span(text: str) -> BlockSpan:
    """`A:B` as a span; raises `UsageError` if it is none."""
    start, colon, end = text.partition(":")
    if not (colon and start.isdecimal() and end.isdecimal() and int(start) < int(end)):
        raise UsageError(
            f"{text!r} is not a span of blocks",
            code="blocks.range",
            parameter="blocks",
            hint="for example 0:12, which ends before block 12",
        )
    return BlockSpan(int(start), int(end))


def swarm_config(arguments: dict[str, Any]) -> "SwarmConfig":
    """The settings of `config.toml`, as the options change them."""
    from dataclasses import replace

    from baremetalrt.core.units import parse_bytes
    from baremetalrt.swarm.config import load_config

    config = load_config()
    if arguments.get("offline"):
        config = replace(config, offline=True)
    if arguments.get("swarm_port") is not None:
        config = replace(config, port=arguments["swarm_port"])
    if arguments.get("limit_down"):
        config = replace(config, download_limit=parse_bytes(arguments["limit_down"]))
    if arguments.get("limit_up"):
        config = replace(config, upload_limit=parse_bytes(arguments["limit_up"]))
    return config


def node_config(arguments: dict[str, Any], *, max_sessions: int) -> "NodeConfig":
    """The node that the model options describe."""
    from baremetalrt.serve.node import NodeConfig

    template: Path | None = arguments["chat_template"]
    return NodeConfig(
        device=arguments["device"],
        num_threads=arguments["threads"],
        context=arguments["context"],
        max_sessions=max_sessions,
        repack=not arguments["no_repack"],
        chat_template=template.read_text(errors="replace") if template else None,
    )


def sampling(arguments: dict[str, Any]) -> "SamplingOptions":
    """The sampling that the options describe."""
    from baremetalrt.session.sampling import SamplingOptions

    return SamplingOptions(
        temperature=arguments["temperature"],
        top_k=arguments["top_k"],
        top_p=arguments["top_p"],
        min_p=arguments["min_p"],
        repetition_penalty=arguments["repetition_penalty"],
        presence_penalty=arguments["presence_penalty"],
        frequency_penalty=arguments["frequency_penalty"],
        seed=arguments["seed"],
    )


def grammar(json_schema: str | None, gbnf: Path | None) -> "Grammar | None":
    """The grammar that `--json-schema` or `--grammar` asks for."""
    if json_schema is None and gbnf is None:
        return None
    from baremetalrt.session import grammar as grammars

    if json_schema is not None and gbnf is not None:
        raise UsageError("give --json-schema or --grammar, not both")
    if gbnf is not None:
        return grammars.from_gbnf(gbnf.read_text(errors="replace"))
    text = json_schema or ""
    if os.path.isfile(text):
        text = Path(text).read_text(errors="replace")
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"--json-schema is neither a file nor JSON: {error}",
            code="grammar.invalid",
            parameter="json_schema",
        ) from error
    return grammars.from_json_schema(schema)
