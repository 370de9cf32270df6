"""`bmrt run`: one answer, or a chat."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import UsageError
from baremetalrt.serve.library import (
    TorrentReference,
    is_worth_asking,
    names_model,
    needs_peers,
    resolve,
)
from baremetalrt.serve.opening import Opening
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.cli.transfer import Display
    from baremetalrt.serve.node import Model
    from baremetalrt.session.session import GenerationOptions, Session

_STARTED = time.perf_counter()


@click.command("run")
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
@click.option("--system", metavar="TEXT", help="Instructions that come before the conversation.")
@click.option("-n", "--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer.")
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
@options.route_options
@options.sampling_options
@options.model_options
@options.swarm_options
def command(words: tuple[str, ...], **arguments: Any) -> None:
    """Answer a prompt, or chat.

    MODEL is a GGUF file, a name from `bmrt ls`, a magnet link, a .torrent file or an info-hash, or left
    out for the embedded default. A model that is still to be fetched answers as soon as its last block
    has arrived. Without PROMPT the prompt is read from standard input; on a terminal a chat begins. A
    PROMPT of `-` stands for standard input too: `cat notes.txt | bmrt run "Summarize:" -`.
    """
    model, prompt = _split(words, arguments)
    if arguments["adapters"]:
        _refuse_adapters_elsewhere(model, arguments)
    if prompt is None and sys.stdin.isatty():
        if arguments["as_json"]:
            raise UsageError("--json needs a prompt", hint='bmrt run --json "…"')
        from baremetalrt.cli.chat import chat

        chat(model, arguments)
        return
    text = _with_standard_input(prompt)
    if over_peers(model, arguments):
        import asyncio

        asyncio.run(_answer_over_peers(model, text, arguments))
    elif isinstance(model, TorrentReference):
        import asyncio

        asyncio.run(_answer_arriving(model, text, arguments))
    else:
        _answer(model, text, arguments)


def over_peers(model: StoredModel | TorrentReference, arguments: dict[str, Any]) -> bool:
    """Whether a model is to run on peers: asked for, too large for this machine, or faster there."""
    if arguments["via"] or arguments["route"] != "auto":
        return bool(arguments["via"]) or arguments["route"] in ("lan", "swarm")
    if not isinstance(model, StoredModel):
        return False
    if needs_peers(model):
        return True
    if not is_worth_asking(model):
        return False
    from baremetalrt.cli.over_peers import faster_over_peers

    with output.progress("asking peers whether they are faster"):
        return faster_over_peers(model, arguments)


def named(name: str | None, arguments: dict[str, Any]) -> StoredModel | TorrentReference:
    """The model of that name: of those here, or else, where peers are to run it, of theirs."""
    try:
        return resolve(name)
    except UsageError as error:
        if (
            name is None
            or error.code != "model.not-found"
            or not (arguments["via"] or arguments["route"] in ("lan", "swarm"))
        ):
            raise
        return TorrentReference(name)


def _split(
    words: tuple[str, ...], arguments: dict[str, Any]
) -> tuple[StoredModel | TorrentReference, list[str] | None]:
    """Which of the words is the model, and which are the prompt."""
    if not words:
        return resolve(None), None
    if len(words) == 1 and not names_model(words[0]):
        return resolve(None), [words[0]]
    if words[0] == "-" or (words[-1] == "-" and len(words) == 2 and not names_model(words[0])):
        return resolve(None), list(words)
    return named(words[0], arguments), list(words[1:]) or None


def _with_standard_input(prompt: list[str] | None) -> str:
    parts = ["-"] if prompt is None else prompt
    text = "\n\n".join(sys.stdin.read() if part == "-" else part for part in parts)
    if not text.strip():
        raise UsageError("the prompt is empty", code="prompt.empty", parameter="prompt")
    return text


def _answer(stored: StoredModel, prompt: str, arguments: dict[str, Any]) -> None:
    opening = Opening(stored)
    # Only now, while the vocabulary loads: importing the engine takes as long.
    from baremetalrt.serve.node import Node

    node = Node(options.node_config(arguments, max_sessions=1))
    try:
        with output.progress(f"loading {stored.name}"):
            model = adapted(node.load(opening), arguments)
        loaded_s = time.perf_counter() - _STARTED
        import asyncio

        asyncio.run(_generate(model, prompt, arguments, loaded_s))
    finally:
        node.close()
    _look_after(stored)


def adapted(model: "Model", arguments: dict[str, Any]) -> "Model":
    """The model with the adapters that the options name."""
    if not arguments["adapters"]:
        return model
    from baremetalrt.serve.adapters import AdapterShelf, parse_choice

    choices = [parse_choice(text, allow_paths=True) for text in arguments["adapters"]]
    return AdapterShelf().adapt(model, choices, allow_paths=True)


def _refuse_adapters_elsewhere(
    model: StoredModel | TorrentReference, arguments: dict[str, Any]
) -> None:
    if over_peers(model, arguments):
        raise UsageError(
            "adapters are computed on this machine alone, not on peers",
            code="adapter.route",
            parameter="adapter",
            hint="use --route local, or a model that fits here",
        )
    if isinstance(model, TorrentReference):
        raise UsageError(
            "adapters need a model that is here",
            code="adapter.arriving",
            parameter="adapter",
            hint=f"`bmrt pull {model.reference[:60]}` first",
        )


def _look_after(stored: StoredModel) -> None:
    """Counts the use of a fetched model, and looks at some of it for rot."""
    from baremetalrt.serve.library import look_after

    rotten = look_after(stored)
    if rotten:
        output.note(
            f"warning: {rotten} pieces of {stored.name} have rotted on disk; this answer may be wrong. "
            "They are fetched again on the next run."
        )


async def _answer_arriving(model: TorrentReference, prompt: str, arguments: dict[str, Any]) -> None:
    """Answers with a model that is fetched meanwhile."""
    from baremetalrt.cli.opened import arriving_model

    async with arriving_model(model, arguments) as (loaded, display):
        loaded_s = time.perf_counter() - _STARTED
        await _generate(loaded, prompt, arguments, loaded_s, display)


async def _answer_over_peers(
    model: StoredModel | TorrentReference, prompt: str, arguments: dict[str, Any]
) -> None:
    """Answers with a model whose blocks run on other machines."""
    from baremetalrt.cli.over_peers import opened_over_peers

    async with opened_over_peers(model, arguments) as opened:
        await _generate(opened, prompt, arguments, time.perf_counter() - _STARTED)


async def _generate(
    model: "Model",
    prompt: str,
    arguments: dict[str, Any],
    loaded_s: float,
    display: "Display | None" = None,
) -> None:
    if arguments["raw"]:
        tokens = model.encode(prompt)
    else:
        messages = [{"role": "user", "content": prompt}]
        if arguments["system"]:
            messages.insert(0, {"role": "system", "content": arguments["system"]})
        tokens = await model.tokenize_chat(messages)
    session = model.session(tokens, generation_options(arguments))
    text: list[str] = []
    ids: list[int] = []
    first_token_s = 0.0
    async for token in session.generate():
        if not first_token_s:
            first_token_s = time.perf_counter() - _STARTED
            if display is not None:
                display.finish()
        text.append(token.text)
        if token.id is not None:
            ids.append(token.id)
        if not arguments["as_json"]:
            print(token.text, end="", flush=True)
    timings = _timings(session, loaded_s, first_token_s)
    if display is not None and display.torrent is not None and display.torrent.last_piece_at:
        timings["last_byte_s"] = round(display.torrent.last_piece_at - _STARTED, 6)
    if arguments["as_json"]:
        output.print_json(
            {
                "model": model.name,
                "text": "".join(text),
                "tokens": ids,
                "prompt_tokens": session.stats.prompt_tokens,
                "finish_reason": session.finish_reason,
                "timings": timings,
            }
        )
        return
    print(flush=True)
    if session.finish_reason == "length" and arguments["max_tokens"] is None:
        output.note(
            f"stopped: the context of {model.context_limit} tokens is full (raise it with --context)"
        )
    if arguments["verbose"]:
        output.note(describe_speed(session))


def generation_options(arguments: dict[str, Any]) -> "GenerationOptions":
    """What to generate, from the command's options."""
    from baremetalrt.session.session import GenerationOptions

    return GenerationOptions(
        sampling=options.sampling(arguments),
        max_tokens=arguments["max_tokens"],
        stop=arguments["stop"],
        grammar=options.grammar(arguments["json_schema"], arguments["grammar"]),
    )


def _timings(session: "Session", loaded_s: float, first_token_s: float) -> dict[str, float]:
    stats = session.stats
    timings = {
        "load_s": loaded_s,
        "time_to_first_token_s": first_token_s,
        "prefill_s": stats.prefill_s,
        "prefill_tokens_per_s": stats.prefill_tokens_per_s,
        "decode_s": stats.decode_s,
        "decode_tokens_per_s": stats.decode_tokens_per_s,
        "total_s": time.perf_counter() - _STARTED,
    }
    return {name: round(value, 6) for name, value in timings.items()}


def describe_speed(session: "Session") -> str:
    """One line about how fast an answer was."""
    s = session.stats
    cached = f" ({s.cached_tokens} from cache)" if s.cached_tokens else ""
    return (
        f"{s.prompt_tokens} prompt tokens{cached} at {s.prefill_tokens_per_s:.1f}/s, "
        f"{s.generated_tokens} generated at {s.decode_tokens_per_s:.1f}/s"
    )
