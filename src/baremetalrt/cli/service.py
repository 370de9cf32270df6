"""`bmrt service`: a server that the system starts, and starts again."""

import click

from baremetalrt.cli import output


@click.group("service")
def command() -> None:
    """`bmrt serve` as a service of this user: a unit of systemd, or an agent of launchd."""


@command.command("install", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[SERVE ARGUMENTS…]")
@click.option("--print", "only_prints", is_flag=True, help="Only print the unit.")
def install_command(arguments: tuple[str, ...], only_prints: bool) -> None:
    """Install `bmrt serve ARGUMENTS`, and start it, now and whenever this user logs in."""
    from baremetalrt.cli import serve
    from baremetalrt.serve.service import install, service_of

    # What `bmrt serve` would not take is said now, and not in a log.
    serve.command.make_context("bmrt serve", list(arguments))
    service = service_of(arguments)
    if only_prints:
        click.echo(service.text.decode(), nl=False)
        return
    problem = install(service)
    output.note(f"installed {service.path}")
    if problem:
        output.note(f"it is not running: {problem}")
        for words in service.start:
            output.note(f"to start it: {' '.join(words)}")


@command.command("uninstall")
def uninstall_command() -> None:
    """Stop and remove it."""
    from baremetalrt.serve.service import service_of, uninstall

    service = service_of(())
    problem = uninstall(service)
    output.note(f"removed {service.path}")
    if problem:
        output.note(f"it may still run: {problem}")
