"""`bmrt bench`: how fast a model runs on this machine."""

import asyncio
from dataclasses import replace

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.torrent_display import TorrentDisplay
from baremetalrt.node.naming import find_whole_model
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions


@click.command("bench")
@click.argument("model", required=False, shell_complete=options.complete_model)
@click.option("--repeat", type=click.IntRange(1, 100), default=3, show_default=True)
@options.JSON
@options.model_options
def command(model: str | None, repeat: int, as_json: bool, options: ModelOptions) -> None:
    """Measure prefill, and decode with one and with several sessions, in tokens per second.

    Each figure is the median of the repetitions.
    """
    opening = Opening(find_whole_model(model))
    from baremetalrt.node.benchmark import NUM_SESSIONS, measure_speed

    given = replace(options, max_sessions=max(NUM_SESSIONS))
    with TorrentDisplay() as display:
        found = asyncio.run(measure_speed(opening, given, repeat, display.on_event))
    if as_json:
        output.print_json(
            {
                "model": found.model,
                "results": [
                    {
                        "test": speed.test,
                        "tokens_per_s": round(speed.median, 3),
                        "all_tokens_per_s": [round(s, 3) for s in speed.tokens_per_s],
                    }
                    for speed in found.speeds
                ],
                "weights_mapped_bytes": found.mapped_bytes,
                "weights_copied_bytes": found.copied_bytes,
            }
        )
        return
    output.print_table(
        ("TEST", "TOKENS/S"), [(speed.test, f"{speed.median:.1f}") for speed in found.speeds]
    )
