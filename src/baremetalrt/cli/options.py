"""Options that several commands share: parsed here, once, into the types of those who use them."""

import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import read_regular
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.text_input import text_of
from baremetalrt.core.units import MIB, parse_bytes, parse_duration
from baremetalrt.hosting.options import Activations, RouteKind, RouteOptions
from baremetalrt.node.options import (
    AUTO,
    CACHE_TYPES,
    CacheType,
    CacheTypes,
    ModelOptions,
    Overflow,
    SampleOptions,
    SwarmOptions,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from baremetalrt.session.grammar import Grammar

F = TypeVar("F", bound=Callable[..., Any])
Command = Callable[..., None]

_MAX_TEXT_BYTES: Final = 16 * MIB
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
VIA: Final = click.option(
    "--via",
    multiple=True,
    metavar="HOST:PORT",
    help="Ask the peers there (`bmrt serve --share`), not the local network. Repeatable.",
)
FILE: Final = click.option(
    "--file",
    metavar="NAME",
    help="Which model of a torrent with several: its file, or a part of the name such as Q4_K_M.",
)
_CACHE_TYPE: Final = click.Choice(CACHE_TYPES)
_SWARM: Final = click.option("--swarm", metavar="NAME", help="The private swarm; see `bmrt swarm`.")


class _Parsed(click.ParamType[Any]):
    """A value that a function of ours reads; its errors are ours, with a hint."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._parse(value) if isinstance(value, str) else value


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


def device_size(text: str) -> tuple[str | None, int]:
    """`SIZE` or `DEVICE=SIZE`; raises `UsageError`."""
    name, equals, size = text.rpartition("=")
    return (name.strip().lower() if equals else None), parse_bytes(size)


SIZE: Final = _Parsed("size", parse_bytes)
DURATION: Final = _Parsed("time", parse_duration)
_DEVICE_SIZE: Final = _Parsed("size", device_size)
BLOCKS: Final = _Parsed("blocks", block_span)


def complete_model(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Names in the store, and files."""
    from click.shell_completion import CompletionItem

    from baremetalrt.node.naming import names_like

    names = names_like(incomplete)
    return [*(CompletionItem(n) for n in names), CompletionItem(incomplete, type="file")]


def _with(command: Command, *decorators: Callable[[Command], Command]) -> Command:
    """The command with these options, in the order in which they are listed."""
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def model_options(command: Command) -> Command:
    """How a model is loaded: the command is given `options`."""

    @wraps(command)
    def parsed(
        *given: Any,
        device: str,
        threads: int | None,
        context: int | None,
        no_repack: bool,
        chat_template: Path | None,
        memory: tuple[tuple[str | None, int], ...],
        cache_type: CacheType,
        cache_type_k: CacheType | None,
        cache_type_v: CacheType | None,
        no_prompt_cache: bool,
        context_overflow: Overflow,
        **others: Any,
    ) -> None:
        options = ModelOptions(
            memory_bytes=next((size for name, size in memory if name is None), None),
            device_memory=tuple((name, size) for name, size in memory if name is not None),
            device=device,
            num_threads=threads,
            context=context,
            repack=not no_repack,
            chat_template=read_text(chat_template) if chat_template else None,
            cache_types=CacheTypes(
                keys=cache_type_k or cache_type, values=cache_type_v or cache_type
            ),
            keeps_prefixes=not no_prompt_cache,
            context_overflow=context_overflow,
        )
        command(*given, options=options, **others)

    return _with(
        parsed,
        click.option(
            "--context",
            type=click.IntRange(min=1),
            metavar="TOKENS",
            help="Longest text, prompt and answer together.  [default: the model's, "
            "memory permitting]",
        ),
        click.option(
            "--context-overflow",
            type=click.Choice(["error", "slide"]),
            default="error",
            show_default=True,
            help="A text that is longer: refuse it, or drop its middle; the system text and the "
            "newest half stay, and are computed again (llama.cpp: context shift).",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, 512),
            metavar="N",
            help="Compute threads.  [default: physical cores]",
        ),
        click.option(
            "--device",
            default=AUTO,
            show_default=True,
            metavar="NAME[,NAME…]",
            help="Use these of the devices that `bmrt doctor` lists.  auto: those that are fastest "
            "together.",
        ),
        click.option(
            "--memory",
            type=_DEVICE_SIZE,
            multiple=True,
            metavar="[DEVICE=]SIZE",
            help="Take no more than this; weights that do not fit are read from disk again and again. "
            "With the name of a device: blocks take no more there.  [default: what is free]",
        ),
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
        click.option(
            "--cache-type",
            type=_CACHE_TYPE,
            default="f16",
            show_default=True,
            help="How keys and values are kept: q8_0 takes half of the memory, q4_0 a quarter, and "
            "answers change a little. What is hosted for peers is kept as f16.",
        ),
        click.option("--cache-type-k", type=_CACHE_TYPE, help="The same for keys alone."),
        click.option("--cache-type-v", type=_CACHE_TYPE, help="The same for values alone."),
        click.option(
            "--no-prompt-cache",
            is_flag=True,
            help="Neither keep what was computed of texts on disk, nor use what is kept there.",
        ),
    )


def sample_options(command: Command) -> Command:
    """How tokens are chosen: the command is given `sampling`."""

    names = [option.name for option in _SAMPLING]

    @wraps(command)
    def parsed(*given: Any, **others: Any) -> None:
        asked = {name: value for name in names if (value := others.pop(name)) is not None}
        # Whether they make sense is said before anything is loaded.
        SampleOptions(**asked)
        command(*given, sampling=asked, **others)

    return _with(parsed, *(option.decorator for option in _SAMPLING))


class _Sampling(NamedTuple):
    """One of the options; all that is not given is the model's, or else ours."""

    name: str
    decorator: Callable[[Command], Command]


def _sampling(name: str, type_: type, default: object, *also: str, about: str = "") -> _Sampling:
    said = f"[default: {default}, or the model's]"
    flag = "--" + name.replace("_", "-")
    return _Sampling(name, click.option(*also, flag, type=type_, help=f"{about}  {said}".strip()))


_SAMPLING: Final = (
    _sampling("temperature", float, 0.7, "-t", about="0: greedy."),
    _sampling("top_k", int, 40, about="0: off."),
    _sampling("top_p", float, 0.95, about="1: off."),
    _sampling("min_p", float, 0.05, about="0: off."),
    _sampling("typical_p", float, 1.0, about="1: off."),
    _sampling("repetition_penalty", float, 1.0),
    _sampling("presence_penalty", float, 0.0),
    _sampling("frequency_penalty", float, 0.0),
    _Sampling("seed", click.option("--seed", type=int, help="Makes sampling repeatable.")),
)


def swarm_options(command: Command) -> Command:
    """How this command takes part in swarms: it is given `swarm`."""

    @wraps(command)
    def parsed(
        *given: Any,
        peers: tuple[str, ...],
        offline: bool,
        swarm: str | None,
        swarm_port: int | None,
        limit_down: int | None,
        limit_up: int | None,
        **others: Any,
    ) -> None:
        options = SwarmOptions(
            peers=peers,
            swarm=swarm,
            offline=offline,
            port=swarm_port,
            download_limit=limit_down,
            upload_limit=limit_up,
        )
        command(*given, swarm=options, **others)

    return _with(
        parsed,
        click.option(
            "--peer", "peers", multiple=True, metavar="HOST:PORT", help="Ask this peer too."
        ),
        click.option("--offline", is_flag=True, help="Send nothing beyond the local network."),
        _SWARM,
        click.option("--swarm-port", type=click.IntRange(0, 65534), help="0: any free port."),
        click.option("--limit-down", type=SIZE, metavar="RATE", help="For example 2MB/s."),
        click.option("--limit-up", type=SIZE, metavar="RATE", help="For example 500KB/s."),
    )


def route_options(command: Command) -> Command:
    """Where a model runs: the command is given `route`."""

    @wraps(command)
    def parsed(
        *given: Any,
        route: RouteKind,
        activations: Activations,
        via: tuple[str, ...],
        **others: Any,
    ) -> None:
        options = RouteOptions(kind=route, via=via, activations=activations)
        command(*given, route=options, **others)

    return _with(
        parsed,
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
        VIA,
    )


def neighbour_options(command: Command) -> Command:
    """Which peers of a private swarm are asked: the command is given `route` and `swarm`."""

    @wraps(command)
    def parsed(
        *given: Any, swarm: str | None, route: RouteKind, via: tuple[str, ...], **others: Any
    ) -> None:
        asked = RouteOptions(kind=route, via=via)
        command(*given, route=asked, swarm=SwarmOptions(swarm=swarm), **others)

    return _with(
        parsed,
        _SWARM,
        click.option(
            "--route",
            type=click.Choice(["lan", "swarm"]),
            default="lan",
            show_default=True,
            help="Ask peers of the local network, or of the whole swarm.",
        ),
        VIA,
    )


def read_text(path: Path) -> str:
    """A text that an option names, as far as it is one; raises `UsageError` if it cannot be read."""
    try:
        return text_of(read_regular(path, _MAX_TEXT_BYTES)).replace("\r\n", "\n")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}",
            code="file.unreadable",
            hint="write the text to a file, and name that",
        ) from error


def grammar(json_schema: str | None, gbnf: Path | None) -> "Grammar | None":
    """The grammar that `--json-schema` or `--grammar` asks for."""
    if json_schema is None and gbnf is None:
        return None
    from baremetalrt.session.grammar import from_gbnf, from_json_schema

    if json_schema is not None and gbnf is not None:
        raise UsageError("give --json-schema or --grammar, not both")
    if gbnf is not None:
        return from_gbnf(read_text(gbnf))
    text = (json_schema or "").removeprefix("\ufeff")
    if os.path.exists(text):
        text = read_text(Path(text))
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"--json-schema is neither a file nor JSON: {error}",
            code="grammar.invalid",
            parameter="json_schema",
        ) from error
    return from_json_schema(schema)
