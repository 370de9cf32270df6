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
@click.option("--replace", is_flag=True, help="Replace what NAME learned before.")
@click.option(
    "--held-out",
    type=click.FloatRange(0.0, 0.5),
    default=0.1,
    show_default=True,
    help="The part of the examples that is not trained on, but measured with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@tuning_options
def command(
    files: tuple[Path, ...],
    model: str | None,
    name: str,
    replace: bool,
    held_out: float,
    as_json: bool,
    tuning: TuneConfig,
) -> None:
    """Train a model on FILES of examples, and keep the change as the adapter NAME.

    A file of JSON lines holds {"text": …}, {"prompt": …, "completion": …} or {"messages": […]} per line;
    any other file is text. What comes of it is a way of writing and answering; facts are seldom kept, and
    the report, which asks before and after, shows how many are.

    The same command goes on after an interruption, and says so when all is done. A file called `pause`
    in the folder of the run makes it wait.
    """
    from baremetalrt.learning.learn import Examples, LearnRequest, learn

    examples = Examples(files=files, held_out=held_out, may_replace=replace, seed=tuning.seed)
    request = LearnRequest(name=name, source=examples, model=model, tuning=tuning)
    with LearnDisplay(is_silent=as_json) as display:
        learned = learn(request, display.on_event)
    print_learned(learned, as_json=as_json)
