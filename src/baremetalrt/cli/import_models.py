"""`bmrt import`: models that other programs have on this machine."""

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.torrent_display import TorrentDisplay
from baremetalrt.core.units import format_bytes


@click.command("import")
@click.argument("program", type=click.Choice(["ollama", "lmstudio"]))
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("--list", "only_lists", is_flag=True, help="Only list what there is.")
@options.JSON
def command(program: str, names: tuple[str, ...], only_lists: bool, as_json: bool) -> None:
    """Take over models of Ollama or LM Studio, all or those of some names, where they lie.

    Nothing is copied or changed: each becomes a torrent of its own, which `bmrt serve` and `bmrt seed`
    offer to others, and can be named as `bmrt ls` lists it. What that program removes is gone here, too.
    """
    from baremetalrt.node.hub_models import foreign_models, take_over

    found = foreign_models(program, names)
    if only_lists:
        rows = [(one.name, format_bytes(one.path.stat().st_size), str(one.path)) for one in found]
        if as_json:
            output.print_json([{"name": one.name, "path": str(one.path)} for one in found])
        else:
            output.print_table(("NAME", "SIZE", "FILE"), rows)
        return
    made = []
    with TorrentDisplay() as display:
        for one in take_over(found, display.on_event):
            made.append(one)
            metainfo = one.torrent.metainfo
            if not as_json:
                output.note(f"{one.name} is {metainfo.name} here")
    if as_json:
        output.print_json(
            [
                {
                    "name": one.torrent.metainfo.name,
                    "as": one.name,
                    "path": str(one.path),
                    "magnet": one.torrent.metainfo.magnet,
                }
                for one in made
            ]
        )
