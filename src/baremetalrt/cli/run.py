"""`bmrt run`: one answer, or a chat."""

import gc
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.cli.answering import AnswerOptions, describe_speed
from baremetalrt.core.errors import UsageError
from baremetalrt.core.text_input import read_standard_input
from baremetalrt.core.units import MIB, format_bytes
from baremetalrt.hosting.open_model import OpenRequest, begin, find_named
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.node.naming import NamedModel, names_model, resolve
from baremetalrt.node.options import GivenSampling, ModelOptions, SwarmOptions

if TYPE_CHECKING:
    from baremetalrt.hosting.open_model import OpenedModel
    from baremetalrt.node.answering import Answered

# Millions of tokens: more than any context, and what may come has no end.
_MAX_INPUT_BYTES = 16 * MIB
# Longer than answers are that people read, and that models write who come to an end.
_MAX_TOKENS = 8192
_STARTED = time.perf_counter()
# Nothing that is imported until the first token becomes garbage: looking for it takes a fiftieth.
gc.disable()


@click.command("run")
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
@click.option("--system", metavar="TEXT", help="Instructions that come before the conversation.")
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    default=_MAX_TOKENS,
    show_default=True,
    help="Longest answer.",
)
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer here. Repeatable.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without chat template.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME[=SCALE]",
    help="Add a LoRA: one of `bmrt adapters ls`, a GGUF file or a PEFT folder. Repeatable.",
)
@click.option("--json-schema", metavar="FILE|JSON", help="Answer with JSON that matches.")
@click.option(
    "--grammar",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Answer by a GBNF grammar.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer.")
@click.option("-v", "--verbose", is_flag=True, help="Say how fast it was.")
@options.FILE
@options.route_options
@options.sample_options
@options.model_options
@options.swarm_options
def command(
    words: tuple[str, ...],
    system: str | None,
    max_tokens: int,
    stop: tuple[str, ...],
    raw: bool,
    adapters: tuple[str, ...],
    json_schema: str | None,
    grammar: Path | None,
    as_json: bool,
    verbose: bool,
    file: str | None,
    route: RouteOptions,
    sampling: GivenSampling,
    options: ModelOptions,
    swarm: SwarmOptions,
) -> None:
    """Answer a prompt, or chat.

    MODEL is a GGUF file, a name from `bmrt ls`, a magnet link, a .torrent file or an info-hash, or left
    out for the embedded default. A model that is still to be fetched answers as soon as its last block
    has arrived. Without PROMPT the prompt is read from standard input; on a terminal a chat begins. A
    PROMPT of `-` stands for standard input too: `cat notes.txt | bmrt run "Summarize:" -`.
    """
    if file is not None:
        if not words:
            raise UsageError(
                "--file needs a torrent", parameter="file", hint="name its model first"
            )
        from baremetalrt.core.magnet_links import with_choice

        words = (with_choice(words[0], file), *words[1:])
    model, prompt = _split(words, route)
    how = AnswerOptions(
        sampling=sampling,
        system=system,
        max_tokens=max_tokens,
        stop=stop,
        json_schema=json_schema,
        grammar=grammar,
    )
    is_chat = prompt is None and sys.stdin.isatty()
    if is_chat and as_json:
        raise UsageError("--json needs a prompt", hint='bmrt run --json "…"')
    text = "" if is_chat else _with_standard_input(prompt)
    # Its vocabulary loads from here on, while the rest is imported.
    request = OpenRequest(
        model=begin(model), options=options, route=route, swarm=swarm, adapters=adapters
    )
    import asyncio

    if is_chat:
        from baremetalrt.cli.chat import chat

        asyncio.run(chat(request, how))
    else:
        asyncio.run(_answer(request, text, how, raw=raw, as_json=as_json, verbose=verbose))


def _split(words: tuple[str, ...], route: RouteOptions) -> tuple[NamedModel, list[str] | None]:
    """Which of the words is the model, and which are the prompt."""
    if not words:
        return resolve(None), None
    if len(words) == 1 and not names_model(words[0]):
        return resolve(None), [words[0]]
    if words[0] == "-" or (words[-1] == "-" and len(words) == 2 and not names_model(words[0])):
        return resolve(None), list(words)
    return find_named(words[0], route), list(words[1:]) or None


def _with_standard_input(prompt: list[str] | None) -> str:
    parts = ["-"] if prompt is None else prompt
    text = "\n\n".join(_standard_input() if part == "-" else part for part in parts)
    if not text.strip():
        raise UsageError("the prompt is empty", code="prompt.empty", parameter="prompt")
    return text


def _standard_input() -> str:
    text = read_standard_input(_MAX_INPUT_BYTES + 1)
    if len(text.encode()) > _MAX_INPUT_BYTES:
        raise UsageError(
            f"standard input is longer than {format_bytes(_MAX_INPUT_BYTES)}",
            code="prompt.too-long",
            parameter="prompt",
            hint="no model reads so much at once: give it a part",
        )
    return text


async def _answer(
    request: OpenRequest,
    prompt: str,
    how: AnswerOptions,
    *,
    raw: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    from baremetalrt.cli.model_display import ModelDisplay
    from baremetalrt.hosting.open_model import open_model

    with ModelDisplay() as display:
        async with open_model(request, display.on_event) as opened:
            gc.enable()
            loaded_s = time.perf_counter() - _STARTED
            from baremetalrt.node.answering import Answered, AnswerRequest, answer

            is_raw = raw or (opened.model.is_base and not how.system)
            if is_raw and not raw:
                output.note(
                    f"{opened.model.name} has no chat template: it goes on with the text "
                    "(--chat-template FILE gives it one)"
                )
            asked = AnswerRequest(
                options=how.generation(opened.model.sampling),
                messages=how.conversation(prompt),
                raw=prompt if is_raw else None,
            )
            first_token_s = 0.0
            async for said in answer(opened.model, asked):
                if isinstance(said, Answered):
                    timings = _timings(said, opened, loaded_s, first_token_s)
                    _print_end(said, opened, how, timings, as_json=as_json, verbose=verbose)
                    continue
                if not first_token_s:
                    first_token_s = time.perf_counter() - _STARTED
                    display.finish()
                if not as_json:
                    print(said.text, end="", flush=True)


def _print_end(
    answered: "Answered",
    opened: "OpenedModel",
    how: AnswerOptions,
    timings: dict[str, float],
    *,
    as_json: bool,
    verbose: bool,
) -> None:
    model = opened.model
    if as_json:
        output.print_json(
            {
                "model": model.name,
                "text": answered.text,
                "tokens": answered.token_ids,
                "prompt_tokens": answered.stats.prompt_tokens,
                "cached_tokens": answered.stats.cached_tokens,
                "finish_reason": answered.finish_reason,
                "loop": answered.is_loop,
                "timings": timings,
            }
        )
        return
    print(flush=True)
    if answered.is_loop:
        output.note("stopped: the model said the same over and over")
    elif answered.finish_reason == "length" and answered.stats.generated_tokens == _MAX_TOKENS:
        output.note(f"stopped after {_MAX_TOKENS} tokens (-n says how many it may be)")
    elif answered.finish_reason == "length" and how.max_tokens == _MAX_TOKENS:
        output.note(
            f"stopped: the context of {model.context_limit} tokens is full (raise it with --context)"
        )
    if verbose:
        output.note(describe_speed(answered.stats))


def _timings(
    answered: "Answered", opened: "OpenedModel", loaded_s: float, first_token_s: float
) -> dict[str, float]:
    stats, arrival = answered.stats, opened.arrival
    timings = {
        "load_s": loaded_s,
        "time_to_first_token_s": first_token_s,
        "prefill_s": stats.prefill_s,
        "prefill_tokens_per_s": stats.prefill_tokens_per_s,
        "decode_s": stats.decode_s,
        "decode_tokens_per_s": stats.decode_tokens_per_s,
        "total_s": time.perf_counter() - _STARTED,
    }
    if arrival is not None and arrival.last_piece_at:
        timings["last_byte_s"] = arrival.last_piece_at - _STARTED
    return {name: round(value, 6) for name, value in timings.items()}
