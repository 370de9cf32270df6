"""`bmrt swarm members` and `bmrt swarm expel`: who is in a private swarm, and who is no longer."""

import asyncio
from datetime import datetime

import click

from baremetalrt.cli import options, output


@click.command("members")
@click.argument("name")
@options.JSON
def members(name: str, as_json: bool) -> None:
    """List who was let into a swarm that was created here, and who was put out."""
    from baremetalrt.hosting.members import list_members

    reports = list_members(name)
    if as_json:
        output.print_json(
            [
                {
                    "id": one.id,
                    "joined_at": _time(one.joined_at),
                    "expires_at": _time(one.expires_at),
                    "expelled": one.is_expelled,
                }
                for one in reports
            ]
        )
        return
    if not reports:
        output.note(f"nobody was let in yet; `bmrt swarm invite {name}` does it")
        return
    rows = [
        (
            one.id,
            f"{one.joined_at:%Y-%m-%d}" if one.joined_at else "-",
            "put out" if one.is_expelled else f"{one.expires_at:%Y-%m-%d}",
        )
        for one in reports
    ]
    output.print_table(("PEER", "JOINED", "CERTIFIED UNTIL"), rows)


@click.command("expel")
@click.argument("name")
@click.argument("peer")
@options.VIA
@options.JSON
def expel(name: str, peer: str, via: tuple[str, ...], as_json: bool) -> None:
    """Put a member out of a swarm that was created here.

    PEER is the id that `bmrt swarm members` or `bmrt peers --json` lists, or its first six digits or
    more. The members that answer now are told, and tell the others; the rest hear of it as they meet
    them. Who has heard computes nothing for it, or with it, any more, and exchanges no torrents with it
    once `bmrt serve` here has renewed the certificates of those who stay.
    """
    from baremetalrt.hosting.members import put_out

    done = asyncio.run(put_out(name, peer, via))
    if as_json:
        output.print_json({"expelled": done.id, "number": done.number, "told": list(done.told)})
        return
    output.note(f"put {done.id} out of {name}; members that were told now: {len(done.told)}")


def _time(when: datetime | None) -> str | None:
    return when.isoformat(timespec="seconds") if when else None
