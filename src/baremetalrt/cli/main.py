"""`bmrt`: finds the command, runs it, and turns errors into one line, a hint and an exit status."""

import importlib
import logging
import os
import sys
from typing import Any, Final

import click

from baremetalrt import __version__
from baremetalrt.cli import output, terminal
from baremetalrt.core.errors import BareMetalError, outcome

_INTERRUPTED: Final = 130
# Commands are imported when they are used: `bmrt run` should not pay for the web server.
_COMMANDS: Final = {
    "run": "Answer a prompt, or chat.",
    "serve": "Serve models over the APIs of OpenAI, Ollama and Anthropic.",
    "finetune": "Train a model on examples: JSON lines or text.",
    "pull": "Fetch a model from its swarm.",
    "import": "Take over models of Ollama or LM Studio.",
    "index": "Names of models: list, search, add your own.",
    "seed": "Publish a model file and seed it.",
    "ls": "List the models that are here.",
    "rm": "Remove a model.",
    "gc": "Make room: evict what is used least.",
    "learn": "Train a model on the way documents and mail are written.",
    "forget": "Delete what was learned from documents.",
    "show": "Describe a model: architecture, blocks, types.",
    "adapters": "LoRA adapters: list, import, export, merge, share.",
    "swarm": "Private swarms: create, invite, join, leave.",
    "peers": "List the peers of the private swarm.",
    "ps": "List what peers host, and how busy they are.",
    "plan": "Show which machines would run a model best.",
    "launch": "Start an agent with a model that is served here.",
    "service": "Have the system start `bmrt serve`.",
    "keys": "Keys for clients of `bmrt serve`: add, list, remove.",
    "engine": "Faster builds of the library: list, install, use, remove.",
    "doctor": "Check library, devices, memory and store.",
    "bench": "Measure the speed of a model on this machine.",
    "eval": "Measure how good a model is, on a text or on questions.",
    "completion": "Print a completion script for your shell.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        # A word of Python's is no name of a module.
        name = "import_models" if cmd_name == "import" else cmd_name
        module = importlib.import_module(f"baremetalrt.cli.{name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            if near:
                ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bmrt")
@click.option("--debug", is_flag=True, help="Show traces and what the C library logs.")
@click.pass_context
def bmrt(ctx: click.Context, debug: bool) -> None:
    """Large language models at home."""
    ctx.obj = {"debug": debug}
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")


def main() -> None:
    """The entry point of the `bmrt` command."""
    # numpy's linear algebra is not used here; its threads would only cost memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    terminal.guard()
    try:
        status = bmrt.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        status = _INTERRUPTED
    except BareMetalError as error:
        if "--debug" in sys.argv:
            raise
        status = _report(error)
    _hang_up()
    sys.exit(status if isinstance(status, int) else 0)


def _hang_up() -> None:
    """Lets go of a terminal or pipe that is gone: to Python, what is left for it would be a failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _report(error: BareMetalError) -> int:
    if "--json" in sys.argv:
        body: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
        output.print_json({"error": body})
    output.note_error(error)
    return outcome(error).exit_status
