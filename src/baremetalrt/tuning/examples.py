"""Ready-made examples: JSON lines as people have them, and plain text files.

A line holds `{"text": …}`, `{"prompt": …, "completion": …}` or `{"messages": [{"role", "content"}, …]}`;
`origin` may say where it comes from.
"""

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, read_regular, write_durably
from baremetalrt.core.text_input import decode_bom

TRAIN: Final = "train.jsonl"
HELD_OUT: Final = "held_out.jsonl"
_JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
_MAX_LINE_BYTES: Final = 64 << 20
_MAX_FILE_BYTES: Final = 2 << 30
# A text is cut into passages of about this length where there are too few texts to hold some out.
_PASSAGE_CHARS: Final = 4000
_MIN_TEXTS_TO_SPLIT: Final = 10
_HELD_OUT_SHARE: Final = 0.1


@dataclass(frozen=True)
class Example:
    """Either a text to go on with, or a conversation whose answers are learned."""

    text: str | None
    messages: tuple[dict[str, Any], ...] = ()
    origin: str = ""

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


def split(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to learn from and others to judge by; whole texts where there are enough of them.

    Raises:
        UsageError: there is too little to hold some out.
    """
    pool = list(examples)
    if len(pool) < _MIN_TEXTS_TO_SPLIT:
        pool = [passage for example in pool for passage in _passages(example)]
    if len(pool) < 2:
        raise UsageError(
            "there is too little to learn from: one example at most",
            code="tune.too-little",
            hint="give at least two examples, or some pages of text",
        )
    random.Random(seed).shuffle(pool)
    held_out = max(1, round(len(pool) * _HELD_OUT_SHARE))
    return pool[held_out:], pool[:held_out]


def _passages(example: Example) -> list[Example]:
    if example.text is None:
        return [example]
    passages, current = [], ""
    for paragraph in re.split(r"(?<=\n\n)", example.text):
        current += paragraph
        if len(current) >= _PASSAGE_CHARS:
            passages.append(current)
            current = ""
    return [Example(p, origin=example.origin) for p in (*passages, current) if p.strip()]


def write_corpus(folder: Path, train: Sequence[Example], held_out: Sequence[Example]) -> None:
    """Writes both files, for their owner's eyes only.

    Raises:
        CapacityError: the disk is full or forbidden.
    """
    with disk_errors():
        for private in (folder.parent, folder):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, examples in ((TRAIN, train), (HELD_OUT, held_out)):
            lines = "".join(example.as_line() + "\n" for example in examples)
            write_durably(folder / name, lines.encode("utf-8", "replace"))
