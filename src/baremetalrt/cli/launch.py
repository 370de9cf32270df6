"""`bmrt launch`: start an agent that works with a model that is served here."""

import os
import shlex
import shutil
import subprocess
import sys

import click

from baremetalrt.cli import output


@click.command("launch", context_settings={"ignore_unknown_options": True})
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--url",
    default="http://127.0.0.1:8080",
    show_default=True,
    help="Where `bmrt serve` answers, without a path.",
)
@click.option("--model", metavar="MODEL", help="Which of its models; the first without it.")
@click.option(
    "--api-key", envvar="BMRT_API_KEY", metavar="KEY", help="If it asks for one. [env BMRT_API_KEY]"
)
@click.option("--print", "only_prints", is_flag=True, help="Only print what would be run.")
def command(
    program: str,
    arguments: tuple[str, ...],
    url: str,
    model: str | None,
    api_key: str | None,
    only_prints: bool,
) -> None:
    """Start PROGRAM with a model of `bmrt serve`: codex, claude, opencode, aider, goose, qwen, ollama.

    It gets all that it has to know by its environment and its arguments: none of its settings are
    changed. ARGUMENTS are its own; behind `--`, they may be any.
    """
    from baremetalrt.core.errors import UsageError
    from baremetalrt.serve.agents import ServedModel, start_of
    from baremetalrt.serve.looking import served_model

    url = url.rstrip("/").removesuffix("/v1")
    # Before anybody is asked: whether it is known.
    start_of(program, ServedModel(url, ""))
    found = served_model(url, model, api_key)
    start = start_of(program, found)
    words = [*start.words, *arguments]
    if only_prints:
        for name, value in start.variables.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        click.echo(shlex.join(words))
        return
    path = shutil.which(words[0])
    if path is None:
        raise UsageError(
            f"{words[0]} is not installed",
            code="agent.not-installed",
            hint="`bmrt launch --print` shows what it would be started with",
        )
    output.note(f"{words[0]} with {found.model} at {url}")
    environment = {**os.environ, **start.variables}
    sys.stdout.flush()
    try:
        if os.name == "posix":
            os.execve(path, words, environment)
        sys.exit(subprocess.run([path, *words[1:]], env=environment).returncode)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be started: {error.strerror}",
            code="agent.not-started",
            hint="is it installed as its makers say?",
        ) from error
