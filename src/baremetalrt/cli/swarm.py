"""`bmrt swarm`: private swarms, and who may be in them."""

import contextlib
import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from baremetalrt.cli import output
from baremetalrt.cli.swarm_members import expel, members
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.text_input import read_standard_input

if TYPE_CHECKING:
    from baremetalrt.membership.authority import Membership

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_LIFE: Final = timedelta(days=30)
_POLL_S: Final = 0.5
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _duration(_ctx: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,7})([smhd])", value)
    life = timedelta(seconds=int(found[1]) * _UNITS[found[2]]) if found else timedelta(0)
    if not timedelta(0) < life <= _MAX_LIFE:
        raise click.BadParameter(f"{value!r} is not between 1s and 30d, as in 90s, 30m, 1h or 2d")
    return life


@click.group("swarm")
def command() -> None:
    """Create, share and join private swarms, which let in only those who were invited."""


@command.command("create")
@click.argument("name")
@_json
def create(name: str, as_json: bool) -> None:
    """Create a private swarm. This machine becomes its authority: only it can invite."""
    from baremetalrt.membership.authority import create_swarm

    membership = create_swarm(name)
    if as_json:
        output.print_json(_describe(membership))
        return
    output.note(f"created the private swarm {name}, kept in {membership.folder}")
    output.note(f"`bmrt swarm invite {name}` lets another machine in")


@command.command("invite")
@click.argument("name")
@click.option(
    "--expires",
    callback=_duration,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How long it is good for: 90s, 30m, 1h, 2d.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="HOST:PORT",
    help="How others reach this machine; may be repeated.  [default: its addresses on the LAN]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Listen here.  [default: a free one]",
)
@click.option(
    "--uses",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    metavar="N",
    help="How many machines it lets in.",
)
@_json
def invite(
    name: str,
    expires: timedelta,
    addresses: tuple[str, ...],
    port: int | None,
    uses: int,
    as_json: bool,
) -> None:
    """Let another machine join: print a line for it, and wait.

    Whoever has the line can join: pass it on in private. Ctrl-C withdraws it.
    """
    import asyncio

    from baremetalrt.core.addresses import parse_address

    _show_log()
    parsed = [parse_address(address) for address in addresses]
    try:
        asyncio.run(_invite(name, expires, parsed, port, uses, as_json))
    except asyncio.CancelledError as error:
        raise click.Abort from error


@command.command("join")
@click.argument("line")
@click.option("--as", "local_name", metavar="NAME", help="Name it differently on this machine.")
@_json
def join(line: str, local_name: str | None, as_json: bool) -> None:
    """Join a private swarm, with the LINE of an invitation.

    In a swarm that this machine is in already, it renews the certificate. `-` reads the line from
    standard input.
    """
    import asyncio

    from baremetalrt.membership.authority import utc_now
    from baremetalrt.membership.invitations import parse_invitation
    from baremetalrt.membership.joining import join as join_swarm

    if line == "-":
        line = read_standard_input(1 << 16)
    invitation = parse_invitation(line)
    with output.progress(f"joining {invitation.name}"):
        joined = asyncio.run(join_swarm(invitation, now=utc_now(), local_name=local_name))
    if as_json:
        output.print_json(_describe(joined.membership) | {"renewed": joined.is_renewal})
        return
    what = "renewed the certificate for" if joined.is_renewal else "joined"
    membership = joined.membership
    output.note(f"{what} {membership.name}; valid until {membership.expires_at:%Y-%m-%d}")


@command.command("ls")
@_json
def ls(as_json: bool) -> None:
    """List the private swarms of this machine."""
    from baremetalrt.membership.authority import find_membership, swarm_names, utc_now

    rows: list[dict[str, Any]] = []
    for name in swarm_names():
        try:
            rows.append(_describe(find_membership(name)) | {"error": None})
        except BareMetalError as error:
            rows.append(dict.fromkeys(_FIELDS) | {"name": name, "error": error.message})
    if as_json:
        output.print_json(rows)
        return
    if not rows:
        output.note("no private swarms; `bmrt swarm create` makes one")
        return
    now = utc_now()
    output.print_table(("NAME", "ROLE", "EXPIRES", "AUTHORITY"), [_cells(row, now) for row in rows])


@command.command("leave")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Even if it was created here: destroy its authority.")
@_json
def leave(name: str, yes: bool, as_json: bool) -> None:
    """Forget a private swarm, and remove its keys."""
    from baremetalrt.membership.authority import leave as leave_swarm

    leave_swarm(name, even_as_creator=yes)
    if as_json:
        output.print_json({"left": name})
        return
    output.note(f"left {name}")


command.add_command(members)
command.add_command(expel)


async def _invite(
    name: str,
    expires: timedelta,
    addresses: list[tuple[str, int]],
    port: int | None,
    num_uses: int,
    as_json: bool,
) -> None:
    import asyncio
    import signal

    from baremetalrt.core.addresses import format_address
    from baremetalrt.membership.authority import find_membership, utc_now
    from baremetalrt.membership.invitations import invite as make_invitation
    from baremetalrt.membership.invitations import refusal, uses_left, withdraw
    from baremetalrt.membership.inviting import InvitationServer, lan_addresses, listening_host

    # Ends as Ctrl-C does: an invitation that nobody answers any more is withdrawn.
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # on Windows, which has no such signal
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    membership = find_membership(name)
    if not addresses:
        addresses = [(host, 0) for host in lan_addresses()]
        if not addresses:
            output.note("this machine is on no network: only it can use the invitation")
            addresses = [("127.0.0.1", 0)]
    host = listening_host([host for host, _ in addresses])
    async with InvitationServer(
        membership, host, addresses[0][1] if port is None else port
    ) as server:
        now = utc_now()
        invitation = make_invitation(
            membership,
            [format_address(host, port or server.port) for host, port in addresses],
            expires_at=now + expires,
            num_uses=num_uses,
            now=now,
        )
        try:
            if as_json:
                output.print_json(
                    {
                        "invitation": invitation.line(),
                        "expires_at": invitation.expires_at.isoformat(timespec="seconds"),
                        "addresses": invitation.addresses,
                    }
                )
            else:
                print(invitation.line())
            # Whoever reads this through a pipe waits for the line, and we for them.
            sys.stdout.flush()
            output.note(
                f"waiting on {', '.join(invitation.addresses)} until the invitation is used, "
                f"or expires at {invitation.expires_at.astimezone():%H:%M on %Y-%m-%d}; "
                "Ctrl-C withdraws it"
            )
            while (
                left := uses_left(membership, invitation.token)
            ) and utc_now() < invitation.expires_at:
                await asyncio.sleep(_POLL_S)
        finally:
            withdraw(membership, invitation.token, utc_now())
    if left == num_uses:
        raise refusal("invitation.expired")
    output.note("the invitation is used up" if left == 0 else "the invitation has expired")


_FIELDS: Final = ("name", "authority_name", "creator", "expires_at", "fingerprint", "folder")


def _describe(membership: "Membership") -> dict[str, Any]:
    return {
        "name": membership.name,
        "authority_name": membership.authority_name,
        "creator": membership.is_creator,
        "expires_at": membership.expires_at.isoformat(timespec="seconds"),
        "fingerprint": membership.fingerprint.hex(),
        "folder": str(membership.folder),
    }


def _cells(row: dict[str, Any], now: datetime) -> tuple[str, ...]:
    if row["error"]:
        return (row["name"], row["error"], "", "")
    expires_at = datetime.fromisoformat(row["expires_at"])
    expires = "expired" if expires_at < now else f"{expires_at:%Y-%m-%d}"
    return (
        row["name"],
        "creator" if row["creator"] else "member",
        expires,
        row["fingerprint"][:16],
    )


def _show_log() -> None:
    """Who joined and who was refused, unless `--debug` shows it already."""
    import logging

    log = logging.getLogger("baremetalrt.swarm")
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
