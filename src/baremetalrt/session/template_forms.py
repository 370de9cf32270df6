"""The same conversation in the forms that chat templates want it in. Pure.

Templates were written for what `transformers` hands them, each with its own habits: some have no system
message, some ask whether the content of a call is null, some put arguments together as text.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

Message = Mapping[str, Any]


def forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The conversation as it is, and then in every other form that says the same."""
    has_calls = any(message.get("tool_calls") for message in messages)
    merged = _with_system_merged(messages)
    for is_merged in (False, True) if merged is not None else (False,):
        base = merged if is_merged and merged is not None else list(messages)
        if not has_calls:
            yield base
            continue
        for as_text, is_null in product((False, True), repeat=2):
            yield [_call_message(m, as_text=as_text, is_null=is_null) for m in base]


def tells_calls(text: str, messages: Sequence[Message]) -> bool:
    """Whether every call of the conversation has come through to what was rendered."""
    names = [
        str(call.get("function", {}).get("name", ""))
        for message in messages
        for call in message.get("tool_calls") or ()
    ]
    return all(text.count(name) >= names.count(name) for name in names)


def _with_system_merged(messages: Sequence[Message]) -> list[Message] | None:
    """What the system says as the beginning of what the user says first; None if it says nothing."""
    if not messages or messages[0].get("role") != "system":
        return None
    system, rest = messages[0].get("content") or "", list(messages[1:])
    if not rest or rest[0].get("role") != "user":
        return [{"role": "user", "content": system}, *rest]
    first = rest[0]
    said = f"{system}\n\n{first.get('content') or ''}" if system else first.get("content")
    return [{**first, "content": said}, *rest[1:]]


def _call_message(message: Message, *, as_text: bool, is_null: bool) -> Message:
    """A message of the model with calls: arguments `as_text`, and null in the place of no content."""
    if not message.get("tool_calls"):
        return message
    changed = dict(message)
    if is_null and not message.get("content"):
        changed["content"] = None
    if as_text:
        changed["tool_calls"] = [_with_text(call) for call in message["tool_calls"]]
    return changed


def _with_text(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or isinstance(function.get("arguments"), str):
        return call
    arguments = json.dumps(function.get("arguments"), ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
