"""`bmrt index`: names that people can remember, and where their models are to be had."""

from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from baremetalrt.hosting.nearby import NearbyModel
    from baremetalrt.node.names import ListedModel


@click.group("index")
def command() -> None:
    """Names of models, as `bmrt pull qwen2.5-coder:0.5b` takes them: your own, and a first list."""


NEAR = click.option(
    "--near",
    is_flag=True,
    help="Also what machines on the local network, and peers of private swarms, offer now. They name it "
    "as they like: it is pulled by its info-hash.",
)


@command.command("ls")
@NEAR
@options.JSON
def list_command(near: bool, as_json: bool) -> None:
    """List all names."""
    _show((), near=near, as_json=as_json)


@command.command("search")
@click.argument("words", nargs=-1, required=True)
@NEAR
@options.JSON
def search_command(words: tuple[str, ...], near: bool, as_json: bool) -> None:
    """List the models of which all WORDS are said."""
    _show(words, near=near, as_json=as_json)


@command.command("add")
@click.argument("name", metavar="NAME[:SIZE]")
@click.argument("source", metavar="hf:OWNER/REPO|MAGNET|INFOHASH")
@click.option("--description", default="", metavar="TEXT")
@options.JSON
def add_command(name: str, source: str, description: str, as_json: bool) -> None:
    """Give a model a name of your own, which goes before all others."""
    from baremetalrt.node.names import add_name

    made = add_name(name, source, description)
    if as_json:
        output.print_json(_as_json(made))
    else:
        output.note(f"`bmrt pull {name}` means {source} from now on")


@command.command("rm")
@click.argument("name", metavar="NAME[:SIZE]")
def remove_command(name: str) -> None:
    """Take a name of your own off the list."""
    from baremetalrt.node.names import remove_name

    remove_name(name)
    output.note(f"{name} is no name of yours any more")


def _show(words: tuple[str, ...], *, near: bool, as_json: bool) -> None:
    from baremetalrt.node.names import listed

    found = list(listed(words))
    nearby = []
    if near:
        from baremetalrt.hosting.nearby import models_nearby

        nearby = models_nearby(words)
    if as_json:
        output.print_json([*map(_as_json, found), *(one.report() for one in nearby)])
        return
    if nearby:
        _show_nearby(nearby)
        if not found:
            return
    if not found:
        output.note("no list has such a model; `bmrt pull hf:OWNER/REPO` takes any of a hub")
        return
    rows = [(one.name, ", ".join(one.sizes), one.licence, one.description) for one in found]
    output.print_table(("NAME", "SIZES", "LICENCE", "WHAT IT IS FOR"), rows)


def _show_nearby(nearby: "Sequence[NearbyModel]") -> None:
    rows = [
        (
            one.name,
            format_bytes(one.num_bytes),
            one.torrent,
            ", ".join(one.peers) + (f" ({one.swarm})" if one.swarm else ""),
            "yes" if one.is_here else "",
        )
        for one in nearby
    ]
    output.print_table(("NEARBY", "SIZE", "INFO-HASH", "FROM", "HERE"), rows)
    output.note(f"for example: `{nearby[0].pulled_by()}`")


def _as_json(model: "ListedModel") -> dict[str, object]:
    return {
        "name": model.name,
        "sizes": model.sizes,
        "description": model.description,
        "architecture": model.architecture,
        "licence": model.licence,
    }
