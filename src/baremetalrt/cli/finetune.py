"""`bmrt finetune`: ready-made examples to a LoRA adapter."""

from pathlib import Path

import click

from baremetalrt.cli import options
from baremetalrt.cli.learn_display import LearnDisplay, print_learned
from baremetalrt.cli.tuning_options import TuneConfig, tuning_options


@click.command("finetune")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--model", metavar="MODEL", shell_complete=options.complete_model)
@click.option("--into", "name", required=True, metavar="NAME", help="What the adapter is called.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@tuning_options
def command(
    files: tuple[Path, ...], model: str | None, name: str, as_json: bool, tuning: TuneConfig
) -> None:
    """Teach a model from FILES of examples, and keep what it learned as the adapter NAME.

    A file of JSON lines holds {"text": …}, {"prompt": …, "completion": …} or {"messages": […]} per line;
    any other file is text. A tenth is held out to judge by. Run the same command again after an
    interruption: it goes on where it was. A file called `pause` in the folder of the run makes it wait.
    """
    from baremetalrt.learning.learn import Examples, LearnRequest, learn

    request = LearnRequest(name=name, source=Examples(files=files), model=model, tuning=tuning)
    with LearnDisplay() as display:
        learned = learn(request, display.on_event)
    print_learned(learned, as_json=as_json)
