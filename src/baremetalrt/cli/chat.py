"""The chat of `bmrt run` on a terminal: history, `/commands`, Ctrl-C to interrupt an answer."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory

from baremetalrt.cli import output
from baremetalrt.cli.answering import AnswerOptions, describe_speed
from baremetalrt.cli.conversation import Conversation
from baremetalrt.cli.model_display import ModelDisplay
from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.files import disk_errors, make_private
from baremetalrt.core.places import home
from baremetalrt.hosting.open_model import OpenedModel, OpenRequest, adapted, open_model
from baremetalrt.node.answering import Answered, AnswerRequest, GenerationOptions, answer
from baremetalrt.node.model import Model

_COMMANDS: Final = {
    "/help": "this list",
    "/clear": "begin a new conversation",
    "/system TEXT": "set the instructions, and begin a new conversation",
    "/set NAME VALUE": "change temperature, top_k, top_p, min_p, repetition_penalty, seed, …",
    "/retry": "answer the last message again",
    "/adapter NAME…": "answer with these adapters, as NAME or NAME=0.7; without a name, with none",
    "/save FILE": "write the conversation as JSON",
    "/stats": "how fast the last answer was",
    "/exit": "leave (or Ctrl-D)",
}


@dataclass
class _Chat:
    model: Model
    base: Model
    options: GenerationOptions
    system: str | None
    opened: OpenedModel
    # shows how the model is arriving while an answer waits for it
    display: ModelDisplay
    conversation: Conversation
    speed: str = "nothing was answered yet"

    def begin(self) -> None:
        self.conversation.begin(self.system)


async def chat(request: OpenRequest, how: AnswerOptions) -> None:
    """Talks until the user leaves."""
    with ModelDisplay() as display:
        async with open_model(request, display.on_event) as opened:
            display.finish()
            model = opened.model
            state = _Chat(
                model,
                model.without_adapters(),
                how.generation(model.sampling),
                how.system,
                opened,
                display,
                Conversation(how.system),
            )
            output.note(
                f"{model.name} · {model.context_limit} tokens of context · /help for commands"
            )
            if model.is_base:
                output.note(
                    "the model has no chat template: it gets a plain transcript, and may not keep to it"
                )
            await _talk(state)


async def _talk(state: _Chat) -> None:
    history = home() / "history"
    with disk_errors():
        make_private(history)
    words = [name.split()[0] for name in _COMMANDS]
    prompt: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)), completer=WordCompleter(words, sentence=True)
    )
    while True:
        try:
            line = (await prompt.prompt_async("» ")).strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not line:
            continue
        try:
            if line.startswith("/"):
                if await _command(state, line):
                    return
            else:
                state.conversation.ask(line)
                await _answer(state)
        except BareMetalError as error:
            output.note_error(error)


async def _answer(state: _Chat) -> None:
    """Streams an answer to the conversation so far; what was said of it stays, however it ends."""
    text: list[str] = []
    is_loop = False
    asked = AnswerRequest(options=state.options, messages=list(state.conversation.turns))
    try:
        async with _interruptible(), aclosing(answer(state.model, asked)) as events:
            state.display.show(state.opened.arrival)
            async for said in events:
                if isinstance(said, Answered):
                    state.speed = describe_speed(said.stats)
                    is_loop = said.is_loop
                    continue
                if not text:
                    state.display.finish()
                text.append(said.text)
                print(said.text, end="", flush=True)
    except BareMetalError:
        if text:
            print()
        raise
    else:
        print()
        if is_loop:
            output.note("stopped: the model said the same over and over")
    finally:
        state.display.finish()
        state.conversation.end("".join(text))


@asynccontextmanager
async def _interruptible() -> AsyncIterator[None]:
    """Ctrl-C ends what runs inside, and nothing else."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, task.cancel)
    except NotImplementedError:  # Windows: Ctrl-C leaves the chat
        yield
        return
    try:
        yield
    except asyncio.CancelledError:
        task.uncancel()
        print(" …", end="")
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _command(state: _Chat, line: str) -> bool:
    """Carries out a `/command`; True means leave."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/exit", "/quit", "/bye"):
        return True
    if name == "/help":
        output.note("\n".join(f"  {usage:<16} {what}" for usage, what in _COMMANDS.items()))
    elif name == "/clear":
        state.begin()
    elif name == "/system":
        state.system = rest or None
        state.begin()
    elif name == "/set":
        _set(state, rest)
    elif name == "/retry":
        state.conversation.retry()
        await _answer(state)
    elif name == "/adapter":
        state.model = await adapted(state.base, rest.split())
        output.note(f"{state.model.name} answers from now on")
    elif name == "/save":
        if not rest:
            raise UsageError("/save needs a file name")
        try:
            Path(rest).expanduser().write_text(
                json.dumps(state.conversation.turns, ensure_ascii=False, indent=2) + "\n"
            )
        except OSError as error:
            raise UsageError(f"{rest} cannot be written: {error.strerror}") from error
    elif name == "/stats":
        output.note(state.speed)
    else:
        raise UsageError(f"no command {name}", hint="/help lists them")
    return False


def _set(state: _Chat, rest: str) -> None:
    name, _, value = rest.partition(" ")
    known = {k: v for k, v in vars(state.options.sampling).items() if k != "logit_bias"}
    if not value:
        output.note("\n".join(f"  {k} = {v}" for k, v in known.items()))
        return
    if name not in known:
        raise UsageError(f"no setting {name!r}", hint="known: " + ", ".join(known))
    try:
        number: Any = None if value == "none" else (float(value) if "." in value else int(value))
    except ValueError as error:
        raise UsageError(f"{value!r} is not a number") from error
    state.options = replace(
        state.options, sampling=replace(state.options.sampling, **{name: number})
    )
