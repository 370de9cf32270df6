"""`bmrt finetune`: ready-made examples to a LoRA adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.status_line import StatusLine
from baremetalrt.core.units import parse_bytes
from baremetalrt.serve.library import find_whole_model
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.tuning.config import Progress, TuneConfig

# Where output is no terminal, a line now and then is enough.
_LOG_INTERVAL_S: Final = 30.0


def tuning_options(command: options.F) -> options.F:
    """How a model learns; each is chosen from memory, data and a short probe unless it is given."""
    for option in reversed(
        (
            click.option(
                "--method",
                type=click.Choice(["lora", "rslora", "dora"]),
                default="lora",
                show_default=True,
            ),
            click.option("--rank", type=click.IntRange(1, 512), help="Of the adapter."),
            click.option("--alpha", type=float, help="Its scale.  [default: twice the rank]"),
            click.option("--dropout", type=click.FloatRange(0, 0.9), default=0.0),
            click.option(
                "--targets",
                metavar="NAMES",
                help="What is adapted: q_proj,v_proj or a pattern.  [default: all linear layers]",
            ),
            click.option(
                "--length", type=click.IntRange(16, 1 << 17), help="Tokens that are seen at once."
            ),
            click.option(
                "--step-tokens", type=click.IntRange(1), metavar="TOKENS", help="Tokens per step."
            ),
            click.option("--rate", "learning_rate", type=float, help="The learning rate."),
            click.option(
                "--epochs",
                type=click.FloatRange(0, min_open=True),
                default=3.0,
                show_default=True,
                help="How often each example is seen, at most.",
            ),
            click.option("--max-steps", type=click.IntRange(1)),
            click.option(
                "--patience",
                type=click.IntRange(1),
                default=3,
                show_default=True,
                help="Stop after so many evaluations without gain.",
            ),
            click.option(
                "--samples",
                "num_samples",
                type=click.IntRange(0, 32),
                default=2,
                show_default=True,
                help="How many answers of before and after the report shows.",
            ),
            click.option("--seed", type=int, default=0, show_default=True),
            click.option("--memory", metavar="SIZE", help="Memory that may be used."),
            click.option(
                "--threads",
                "num_threads",
                type=click.IntRange(1, 512),
                help="Compute threads.  [default: physical cores]",
            ),
            click.option(
                "--torch-device",
                "device",
                default="cpu",
                show_default=True,
                help="cpu, cuda, mps or xpu, where PyTorch has it.",
            ),
            click.option(
                "--epsilon",
                type=click.FloatRange(0, min_open=True),
                help="Differential privacy of each row, at this price.  [default: none]",
            ),
            click.option("--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True)),
            click.option("--on-battery", is_flag=True, help="Do not wait for mains power."),
        )
    ):
        command = option(command)
    return command


@click.command("finetune")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--model", metavar="MODEL", shell_complete=options.complete_model)
@click.option("--into", "name", required=True, metavar="NAME", help="What the adapter is called.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@tuning_options
def command(
    files: tuple[Path, ...], model: str | None, name: str, as_json: bool, **arguments: Any
) -> None:
    """Teach a model from FILES of examples, and keep what it learned as the adapter NAME.

    A file of JSON lines holds {"text": …}, {"prompt": …, "completion": …} or {"messages": […]} per line;
    any other file is text. A tenth is held out to judge by. Run the same command again after an
    interruption: it goes on where it was. A file called `pause` in the folder of the run makes it wait.
    """
    from baremetalrt.serve.learning import learned_folder

    folder = learned_folder(name)
    stored = find_whole_model(model)
    from baremetalrt.tuning.requirements import prepare

    prepare()
    from baremetalrt.tuning.examples import read_files, split, write_corpus

    config = tune_config(arguments)
    train, held_out = split(read_files(files), config.seed)
    write_corpus(folder, train, held_out)
    learn(config, folder, stored, name, as_json=as_json)


def tune_config(arguments: dict[str, Any]) -> "TuneConfig":
    """What `tuning_options` say."""
    from baremetalrt.tuning.config import TuneConfig

    memory = arguments.pop("memory")
    on_battery = arguments.pop("on_battery")
    return TuneConfig(
        memory_bytes=parse_bytes(memory) if memory else None,
        waits_on_battery=not on_battery,
        **arguments,
    )


def learn(
    config: "TuneConfig", folder: Path, stored: StoredModel, name: str, *, as_json: bool
) -> None:
    """Runs what is prepared in `folder` to its end, shows how it goes, and prints the report."""
    from baremetalrt.serve.teaching import teach
    from baremetalrt.tuning.curves import draw
    from baremetalrt.tuning.showing import describe, line

    with StatusLine(log_interval_s=_LOG_INTERVAL_S) as status:

        def show(progress: "Progress") -> None:
            is_last = progress.num_steps > 0 and progress.step == progress.num_steps
            if is_last or progress.phase == "paused" or status.is_due:
                status.show(line(progress))

        report = teach(config, folder, stored, name, show)
    if as_json:
        output.print_json(report.as_json())
        return
    output.note(draw(report.losses, report.held_out_losses))
    print(describe(report))
    output.note(f"report and curves: {folder}\nuse it: bmrt run {stored.name} --adapter {name}")
