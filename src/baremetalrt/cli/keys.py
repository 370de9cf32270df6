"""`bmrt keys`: keys for the clients of `bmrt serve`, each with its models and limits."""

from datetime import datetime
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output

if TYPE_CHECKING:
    from baremetalrt.serve.keys import ApiKey


@click.group("keys")
def command() -> None:
    """Keys for clients of `bmrt serve`: who has one shares nothing with who has another.

    A server asks for a key as soon as there is one, here or by --api-key; clients send it as
    `Authorization: Bearer KEY` or `x-api-key`. Servers that run notice at once what is added or removed.
    """


@command.command("add")
@click.argument("name")
@click.option(
    "--model", "models", multiple=True, metavar="MODEL", help="Only these models; all without it."
)
@click.option(
    "--parallel", type=click.IntRange(min=1), metavar="N", help="Requests at once, at most."
)
@click.option(
    "--tokens-per-hour",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens that are computed within an hour, of prompts and answers, at most.",
)
@options.JSON
def add(
    name: str,
    models: tuple[str, ...],
    parallel: int | None,
    tokens_per_hour: int | None,
    as_json: bool,
) -> None:
    """Make a key for the client NAME, and print it: it is shown once, and only its hash is kept."""
    from baremetalrt.node.naming import name_here
    from baremetalrt.serve.keys import add_key

    here = {model: name_here(model) for model in models}
    for model in (one for one, known in here.items() if known is None):
        output.note(f"no model {model!r} is here yet; the key is for it once it is called that")
    models = tuple(known or model for model, known in here.items())
    key, secret = add_key(name, models=models, max_active=parallel, tokens_per_hour=tokens_per_hour)
    if as_json:
        output.print_json(_as_json(key) | {"key": secret})
        return
    output.note(f"the key of {name}, which is not shown again:")
    click.echo(secret)


@command.command("ls")
@options.JSON
def list_command(as_json: bool) -> None:
    """List who has a key, and what for."""
    from baremetalrt.serve.keys import stored_keys

    keys = stored_keys()
    if as_json:
        output.print_json([_as_json(key) for key in keys])
        return
    if not keys:
        output.note("nobody has a key; `bmrt keys add NAME` makes one")
        return
    rows = [
        (
            key.name,
            ", ".join(key.models) or "all",
            str(key.max_active or "-"),
            str(key.tokens_per_hour or "-"),
            f"{datetime.fromtimestamp(key.created):%Y-%m-%d}",
        )
        for key in keys
    ]
    output.print_table(("NAME", "MODELS", "AT ONCE", "TOKENS PER HOUR", "MADE"), rows)


@command.command("rm")
@click.argument("name")
@options.JSON
def remove(name: str, as_json: bool) -> None:
    """Take a key away: whoever has it is let in no more, by servers that run, too."""
    from baremetalrt.serve.keys import remove_key

    remove_key(name)
    if as_json:
        output.print_json({"removed": name})
    else:
        output.note(f"{name} is let in no more")


def _as_json(key: "ApiKey") -> dict[str, object]:
    return {
        "name": key.name,
        "models": list(key.models),
        "parallel": key.max_active,
        "tokens_per_hour": key.tokens_per_hour,
        "created": int(key.created),
    }
