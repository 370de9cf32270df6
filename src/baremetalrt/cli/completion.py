"""`bmrt completion`: a script that teaches the shell our commands and models."""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a completion script: `eval "$(bmrt completion bash)"`."""
    from baremetalrt.cli.main import bmrt

    completer = get_completion_class(shell)
    assert completer is not None
    print(completer(bmrt, {}, "bmrt", "_BMRT_COMPLETE").source())
