"""Ready-made examples: JSON lines as people have them, and plain text files.

A line holds `{"text": …}`, `{"prompt": …, "completion": …}` or `{"messages": [{"role", "content"}, …]}`;
`origin` may say where it comes from.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import read_regular
from baremetalrt.core.text_input import decode_bom

TRAIN: Final = "train.jsonl"
HELD_OUT: Final = "held_out.jsonl"
# Pairs that a model made of what is trained on, where it was asked to; trained on, too.
QUESTIONS: Final = "questions.jsonl"
_JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
_MAX_LINE_BYTES: Final = 64 << 20
_MAX_FILE_BYTES: Final = 2 << 30


@dataclass(frozen=True)
class Example:
    """Either a text to go on with, or a conversation whose answers are learned."""

    text: str | None
    messages: tuple[dict[str, Any], ...] = ()
    origin: str = ""

    @property
    def said(self) -> str:
        """What is in it, wherever it is from: two examples that say the same are the same."""
        if self.text is not None:
            return self.text
        return json.dumps(list(self.messages), ensure_ascii=False, sort_keys=True)

    @property
    def num_bytes(self) -> int:
        return len(self.said.encode("utf-8", "replace"))

    def as_line(self) -> str:
        body: dict[str, Any] = {"origin": self.origin} if self.origin else {}
        if self.text is not None:
            body["text"] = self.text
        else:
            body["messages"] = list(self.messages)
        return json.dumps(body, ensure_ascii=False)


def read_files(paths: Iterable[Path]) -> list[Example]:
    """The examples in files: JSON lines by their suffix, anything else as text.

    Raises:
        UsageError: a file cannot be read, or a line is no example; file and line are named.
    """
    found: list[Example] = []
    for path in paths:
        if path.suffix.lower() in _JSON_SUFFIXES:
            found += read_lines(path)
        else:
            text = read_bytes(path).decode("utf-8", "replace")
            if text.strip():
                found.append(Example(text, origin=path.name))
    return found


def read_lines(path: Path) -> list[Example]:
    """The examples of a file of JSON lines; raises like `read_files`."""
    found = []
    data = read_bytes(path)
    decoded = decode_bom(data)
    lines = data.splitlines() if decoded is None else decoded.encode().splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_parse(line, f"{path.name}:{number}"))
    return found


def training_examples(folder: Path) -> list[Example]:
    """All that is trained on in the folder of a run; raises like `read_files`."""
    pairs = folder / QUESTIONS
    return read_lines(folder / TRAIN) + (read_lines(pairs) if pairs.exists() else [])


def read_bytes(path: Path) -> bytes:
    """A whole file, or `UsageError`."""
    try:
        return read_regular(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}",
            code="tune.unreadable",
            hint="examples are files of at most 2 GiB; `bmrt learn` reads folders",
        ) from error


def _parse(line: bytes, where: str) -> Example:
    if len(line) > _MAX_LINE_BYTES:
        raise _bad(where, "is longer than 64 MiB")
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _bad(where, "is not an object")
    origin = body.get("origin")
    origin = origin if isinstance(origin, str) else where
    text, prompt, answer = body.get("text"), body.get("prompt"), body.get("completion")
    if isinstance(text, str):
        return Example(text, origin=origin)
    if isinstance(prompt, str) and isinstance(answer, str):
        turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
        return Example(None, turns, origin)
    messages = body.get("messages")
    if isinstance(messages, list) and all(_is_message(m) for m in messages):
        if any(m["role"] == "assistant" for m in messages):
            return Example(None, tuple(messages), origin)
        raise _bad(where, "has no message of the assistant to learn from")
    raise _bad(where, "has neither text, nor prompt and completion, nor messages")


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )


def _bad(where: str, what: str) -> UsageError:
    return UsageError(
        f"{where} {what}",
        code="tune.example",
        hint='one example per line: {"text": …}, {"prompt": …, "completion": …} or {"messages": […]}',
    )
