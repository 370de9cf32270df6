"""The chat of `bmrt run` on a terminal: history, `/commands`, Ctrl-C to interrupt an answer."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory

from baremetalrt.cli import options, output
from baremetalrt.cli.opened import arriving_model
from baremetalrt.cli.run import adapted, describe_speed, generation_options, over_peers
from baremetalrt.cli.transfer import Display
from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.serve.library import TorrentReference
from baremetalrt.serve.node import Model, Node
from baremetalrt.serve.opening import Opening
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.store import StoredModel, home

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
    messages: list[dict[str, str]] = field(default_factory=list)
    speed: str = "nothing was answered yet"
    # shows how the model is arriving while an answer waits for it
    display: Display | None = None

    def begin(self) -> None:
        self.messages = [{"role": "system", "content": self.system}] if self.system else []


def chat(model: StoredModel | TorrentReference, arguments: dict[str, Any]) -> None:
    """Talks until the user leaves."""
    asyncio.run(_chat(model, arguments))


async def _chat(model: StoredModel | TorrentReference, arguments: dict[str, Any]) -> None:
    async with _opened(model, arguments) as (loaded, display):
        base = loaded.without_adapters()
        made = generation_options(arguments)
        state = _Chat(loaded, base, made, arguments["system"], display=display)
        state.begin()
        output.note(
            f"{loaded.name} · {loaded.context_limit} tokens of context · /help for commands"
        )
        await _talk(state)


@asynccontextmanager
async def _opened(
    model: StoredModel | TorrentReference, arguments: dict[str, Any]
) -> AsyncIterator[tuple[Model, Display | None]]:
    if over_peers(model, arguments):
        from baremetalrt.cli.over_peers import opened_over_peers

        async with opened_over_peers(model, arguments) as loaded:
            yield loaded, None
        return
    if isinstance(model, TorrentReference):
        async with arriving_model(model, arguments) as (loaded, display):
            display.finish()
            yield loaded, display
        return
    node = Node(options.node_config(arguments, max_sessions=1))
    try:
        with output.progress(f"loading {model.name}"):
            loaded = adapted(node.load(Opening(model)), arguments)
        yield loaded, None
    finally:
        node.close()


async def _talk(state: _Chat) -> None:
    history = home() / "history"
    history.parent.mkdir(parents=True, exist_ok=True)
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
                state.messages.append({"role": "user", "content": line})
                await _answer(state)
        except BareMetalError as error:
            output.note(f"error: {error.message}")
            if error.hint:
                output.note(f"hint: {error.hint}")


async def _answer(state: _Chat) -> None:
    """Streams an answer to the conversation so far; what was said stays, even when interrupted."""
    text: list[str] = []
    try:
        async with _interruptible():
            session = state.model.session(
                await state.model.tokenize_chat(state.messages), state.options
            )
            if state.display is not None:
                state.display.show()
            async with aclosing(session.generate()) as tokens:
                async for token in tokens:
                    if state.display is not None and not text:
                        state.display.finish()
                    text.append(token.text)
                    print(token.text, end="", flush=True)
            state.speed = describe_speed(session)
    except BareMetalError:
        if state.display is not None:
            state.display.finish()
        if not text:
            # Nothing came of the message: it can be sent again, or changed.
            state.messages.pop()
        raise
    print()
    state.messages.append({"role": "assistant", "content": "".join(text)})


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
        if state.messages and state.messages[-1]["role"] == "assistant":
            state.messages.pop()
        if not state.messages or state.messages[-1]["role"] != "user":
            raise UsageError("there is nothing to answer yet")
        await _answer(state)
    elif name == "/adapter":
        state.model = adapted(state.base, {"adapters": tuple(rest.split())})
        output.note(f"{state.model.name} answers from now on")
    elif name == "/save":
        if not rest:
            raise UsageError("/save needs a file name")
        try:
            Path(rest).expanduser().write_text(
                json.dumps(state.messages, ensure_ascii=False, indent=2) + "\n"
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
