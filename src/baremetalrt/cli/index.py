"""`bmrt index`: names that people can remember, and where their models are to be had."""

import asyncio
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from baremetalrt.hosting.nearby import NearbyModel
    from baremetalrt.node.names import ListedModel
    from baremetalrt.node.options import SwarmOptions


@click.group("index")
def command() -> None:
    """Names of models, as `bmrt pull qwen2.5-coder:0.5b` takes them: your own, and those of lists."""


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
@click.option("--to", "list_name", metavar="LIST", help="A list of yours that others follow.")
@options.JSON
def add_command(
    name: str, source: str, description: str, list_name: str | None, as_json: bool
) -> None:
    """Give a model a name of your own, which goes before all others; or put it on a published list."""
    if list_name:
        from baremetalrt.node.published_lists import add_to

        made = add_to(list_name, name, source, description)
    else:
        from baremetalrt.node.names import add_name

        made = add_name(name, source, description)
    if as_json:
        output.print_json(_as_json(list_name or "own", made))
    elif list_name:
        output.note(f"{list_name} has {name} from now on; `bmrt serve` publishes it")
    else:
        output.note(f"`bmrt pull {name}` means {source} from now on")


@command.command("rm")
@click.argument("name", metavar="NAME[:SIZE]")
@click.option("--from", "list_name", metavar="LIST", help="A list of yours that others follow.")
def remove_command(name: str, list_name: str | None) -> None:
    """Take a name of your own off the list, or off a published one."""
    if list_name:
        from baremetalrt.node.published_lists import remove_from

        remove_from(list_name, name)
        output.note(f"{list_name} has no {name} any more")
    else:
        from baremetalrt.node.names import remove_name

        remove_name(name)
        output.note(f"{name} is no name of yours any more")


@command.command("create")
@click.argument("name")
@options.JSON
def create_command(name: str, as_json: bool) -> None:
    """Make a list that others can follow, under a key that stays on this machine.

    `bmrt index add … --to NAME` puts models on it. While `bmrt serve` runs, it is published on the DHT
    (BEP 46) and seeded; members of your private swarms have it from each other. Its file can be handed
    over: whoever has it can check it.
    """
    from baremetalrt.node.published_lists import create

    made = create(name)
    if as_json:
        output.print_json({"name": made.name, "link": made.link, "path": str(made.path)})
        return
    output.note(f"{made.name} is made; `bmrt index add … --to {made.name}`, then `bmrt serve`")
    print(made.link)


@command.command("follow")
@click.argument("link", metavar="LINK|FILE")
@click.option(
    "--as", "alias", metavar="NAME", help="What it is called here; by itself, its own name."
)
@click.option(
    "--via",
    multiple=True,
    metavar="HOST:PORT",
    help="Ask this member of your swarms, too. Repeatable.",
)
@options.JSON
@options.swarm_options
def follow_command(
    link: str, alias: str | None, via: tuple[str, ...], as_json: bool, swarm: "SwarmOptions"
) -> None:
    """Follow somebody's list: its names are known here, and `bmrt serve` keeps it up to date.

    Members of your private swarms are asked for it, then the DHT. Of two lists that say different
    things of a name, neither is taken: NAME is then LIST/NAME.
    """
    from functools import partial

    from baremetalrt.hosting.member_lists import lists_of_members
    from baremetalrt.node.naming import has_private_swarm
    from baremetalrt.node.published_lists import follow

    ask = partial(lists_of_members, via=via) if has_private_swarm() else None
    called, signed = asyncio.run(follow(link, alias, swarm, ask))
    if as_json:
        output.print_json({"name": called, "key": signed.key, "models": len(signed.models)})
        return
    until = signed.expires_at.date()
    output.note(f"{called}: {len(signed.models)} models, good until {until}")


@command.command("unfollow")
@click.argument("name", metavar="LIST")
def unfollow_command(name: str) -> None:
    """Forget a list that is followed."""
    from baremetalrt.node.published_lists import unfollow

    unfollow(name)
    output.note(f"{name} is not followed any more")


@command.command("lists")
@options.JSON
def lists_command(as_json: bool) -> None:
    """Show the lists that are published here, with their links, and those that are followed."""
    from baremetalrt.node.published_lists import followed, published

    own, others = published(), followed()
    if as_json:
        rows = [{"name": one.name, "link": one.link, "path": str(one.path)} for one in own]
        output.print_json({"published": rows, "followed": others})
        return
    if not own and not others:
        output.note("no list is published or followed; `bmrt index create` and `follow` begin")
    for one in own:
        print(f"{one.name}: {len(one.signed.models)} models\n  {one.link}")
    rows_shown = [
        (
            str(row["name"]),
            str(row["key"])[:16],
            "" if row["models"] is None else str(row["models"]),
            str(row["error"] or row.get("expires_at", "")[:10]),
        )
        for row in others
    ]
    if rows_shown:
        output.print_table(("FOLLOWED", "KEY", "MODELS", "GOOD UNTIL"), rows_shown)


def _show(words: tuple[str, ...], *, near: bool, as_json: bool) -> None:
    from baremetalrt.node.names import listed

    found = list(listed(words))
    nearby = []
    if near:
        from baremetalrt.hosting.nearby import models_nearby

        nearby = models_nearby(words)
    if as_json:
        lists = [_as_json(publisher, one) for publisher, one in found]
        output.print_json([*lists, *(one.report() for one in nearby)])
        return
    if nearby:
        _show_nearby(nearby)
        if not found:
            return
    if not found:
        output.note("no list has such a model; `bmrt pull hf:OWNER/REPO` takes any of a hub")
        return
    rows = [
        (one.name, ", ".join(one.sizes), one.licence, publisher, one.description)
        for publisher, one in found
    ]
    output.print_table(("NAME", "SIZES", "LICENCE", "LIST", "WHAT IT IS FOR"), rows)


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


def _as_json(publisher: str, model: "ListedModel") -> dict[str, object]:
    return {
        "name": model.name,
        "list": publisher,
        "sizes": model.sizes,
        "contents": model.contents,
        "description": model.description,
        "architecture": model.architecture,
        "licence": model.licence,
    }
