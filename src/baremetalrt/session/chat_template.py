"""From messages to the prompt that a model was trained on, by the template in its file."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from baremetalrt.core import sandbox
from baremetalrt.core.children import end_child
from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.units import MIB
from baremetalrt.session.template_forms import forms, tells_calls
from baremetalrt.session.tokenizer import MARK, Tokenizer

_WORKER: Final = Path(__file__).with_name("template_worker.py")
_DEADLINE_S: Final = 5.0
# What the process holds once it has rendered something.
_PROCESS_BYTES: Final = 30 * MIB
_TOO_LONG: Final = "it took too long or too much memory"
_MAX_TEMPLATE_CHARS: Final = 1 << 20
_MARK_IN_ASCII: Final = json.dumps(MARK)[1:-1]

# For files without a template: ChatML where the vocabulary has its tokens, a transcript elsewhere.
CHATML: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRANSCRIPT: Final = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

# Where the next turn begins: a model that was not taught to end its own would write that, too.
_CHATML_MARKS: Final = ("<|im_end|>", "<|im_start|>")
_TRANSCRIPT_MARKS: Final = ("\nUser:", "\nAssistant:", "\nSystem:", "\nTool:")

Message = Mapping[str, Any]
# What a template gets from us alone.
_OURS: Final = frozenset({"messages", "tools", "bos_token", "eos_token"})


class TemplateProcess:
    """The process that renders. Started at once, so that it is ready when the model is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=sandbox.environment(),
        )

    def to_come(self) -> int:
        """Bytes that the process will take beyond those it has by now, about."""
        process = self._process
        try:
            held = psutil.Process(process.pid).memory_info().rss if process else 0
        except psutil.Error:
            held = 0
        return max(0, _PROCESS_BYTES - int(held))

    def render(self, template: str, variables: Mapping[str, Any]) -> dict[str, str]:
        """The worker's reply: `text`, `refused` or `error`. Blocks for at most the deadline."""
        request = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            process = self._process
            # Killing the process is what ends a read that takes too long.
            alarm = threading.Timer(_DEADLINE_S, process.kill)
            alarm.start()
            try:
                reply = self._exchange(process, request)
            finally:
                alarm.cancel()
            if not reply:
                self._stop()
                return {"error": _TOO_LONG}
            parsed: dict[str, str] = json.loads(reply)
            return parsed

    @staticmethod
    def _exchange(process: "subprocess.Popen[bytes]", request: bytes) -> bytes:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return b""

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_child(process, process.stdin, process.stdout)

    def close(self) -> None:
        """Ends the process; a later `render` starts another."""
        with self._lock:
            self._stop()


def template_of(
    written: str | None, tokenizer: Tokenizer, process: TemplateProcess
) -> "ChatTemplate":
    """The template that is written in a model's file, or one of ours where there is none."""
    is_chatml = not written and tokenizer.knows("<|im_start|>")
    ours = CHATML if is_chatml else TRANSCRIPT
    turn_marks = () if written else _CHATML_MARKS if is_chatml else _TRANSCRIPT_MARKS
    return ChatTemplate(
        process,
        written or ours,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        mark=tokenizer.marked,
        turn_marks=turn_marks,
    )


class ChatTemplate:
    """The chat template of one model.

    What it renders has marks in it where content names control tokens: see `Tokenizer.encode_chat`.
    """

    def __init__(
        self,
        process: TemplateProcess,
        source: str,
        *,
        bos: str,
        eos: str,
        mark: Callable[[str], str] = str,
        turn_marks: tuple[str, ...] = (),
    ) -> None:
        """`turn_marks`: where answers end, besides where the model ends them, for a template of ours."""
        if len(source) > _MAX_TEMPLATE_CHARS:
            raise IntegrityError(
                f"the chat template is longer than {_MAX_TEMPLATE_CHARS} characters",
                code="template.invalid",
                source="chat template",
            )
        self.source = source
        self._process = process
        self._mark = mark
        self.turn_marks = turn_marks
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for `messages`, in the first of their forms that the template tells in full.

        Blocks for a few milliseconds; for each form, never longer than 5 s.

        Raises:
            UsageError: the template refuses these messages, or `variables` would replace what is ours.
            IntegrityError: the template is broken or hostile.
        """
        if taken := _OURS & (variables or {}).keys():
            raise UsageError(
                f"{min(taken)} is no variable of the template that can be given",
                code="template.variable",
                parameter="chat_template_kwargs",
                hint="messages and tools are fields of the request",
            )
        given = {
            **self._tokens,
            "tools": self._marked(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
            **self._marked(variables or {}),
        }
        reply: dict[str, str] = {}
        for form in forms(messages):
            found = self._process.render(self.source, {**given, "messages": self._marked(form)})
            if "text" in found and tells_calls(found["text"], form):
                reply = found
                break
            # What is said of it as it is; or a text that leaves a call out, if there is no other.
            if not reply or ("text" in found and "text" not in reply):
                reply = found
            if found.get("error") == _TOO_LONG:
                break
        if "text" in reply:
            # Some templates write JSON in ASCII alone.
            return reply["text"].replace(_MARK_IN_ASCII, MARK)
        if "refused" in reply:
            raise UsageError(
                f"the chat template refuses these messages: {reply['refused']}",
                code="template.refused",
                parameter="messages",
            )
        raise IntegrityError(
            f"the chat template cannot be used: {reply['error']}",
            code="template.invalid",
            source="chat template",
            hint="give another one with --chat-template",
        )

    def marked(self, content: str) -> str:
        """Content as it stands in what is rendered."""
        return self._mark(content)

    def _marked(self, value: Any) -> Any:
        """A copy in which every text, keys included, is marked."""
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, Mapping):
            return {self._marked(key): self._marked(one) for key, one in value.items()}
        if isinstance(value, Sequence):
            return [self._marked(one) for one in value]
        return value
