"""Responses that later requests go on from: whose they are, and how many there is room for."""

from typing import Any

import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.core.owner import Owner
from baremetalrt.serve.responses.kept import KeptResponses
from baremetalrt.serve.responses.schema import Item

_ONE, _OTHER = Owner("one"), Owner("other")


def _response(name: str, previous: str | None = None, text: str = "x") -> dict[str, Any]:
    part = {"type": "output_text", "text": text}
    item = {"type": "message", "role": "assistant", "id": f"i-{name}", "content": [part]}
    return {"id": name, "previous_response_id": previous, "output": [item]}


def _texts(items: list[Item]) -> list[Any]:
    return [
        item.content if isinstance(item.content, str) else (item.content or [])[0].text
        for item in items
    ]


def test_a_history_is_all_turns_in_order() -> None:
    kept = KeptResponses()
    kept.keep(_ONE, _response("a", text="first"), [Item(role="user", content="hello")])
    kept.keep(_ONE, _response("b", "a", "second"), [Item(role="user", content="more")])
    assert _texts(kept.history(_ONE, "b")) == ["hello", "first", "more", "second"]
    assert _texts(kept.history(_ONE, "a")) == ["hello", "first"]
    assert _texts([kept.item(_ONE, "i-b")]) == ["second"]


def test_half_a_call_is_not_gone_on_from() -> None:
    kept, response = KeptResponses(), _response("a", text="first")
    cut = {"type": "function_call", "id": "i", "status": "incomplete", "arguments": '{"a'}
    response["output"].append(cut)
    kept.keep(_ONE, response, [])
    assert _texts(kept.history(_ONE, "a")) == ["first"] and kept.get(_ONE, "a").response == response


def test_nobody_else_has_them() -> None:
    kept = KeptResponses()
    kept.keep(_ONE, _response("a"), [])
    for ask in (kept.get, kept.history, kept.forget):
        with pytest.raises(UsageError):
            ask(_OTHER, "a")
    with pytest.raises(UsageError):
        kept.item(_OTHER, "i-a")
    assert kept.get(_ONE, "a")


def test_a_history_with_a_turn_forgotten_is_none() -> None:
    kept = KeptResponses()
    kept.keep(_ONE, _response("a"), [])
    kept.keep(_ONE, _response("b", "a"), [])
    kept.forget(_ONE, "a")
    with pytest.raises(UsageError):
        kept.history(_ONE, "b")


def test_who_keeps_much_pushes_out_their_own() -> None:
    """Those that were asked for last stay, with all before them."""
    kept = KeptResponses(max_bytes=5000, max_bytes_each=3000)
    kept.keep(_OTHER, _response("theirs", text="y" * 500), [])
    kept.keep(_ONE, _response("root", text="y" * 500), [])
    kept.keep(_ONE, _response("leaf", "root", text="y" * 500), [])
    for i in range(20):
        kept.keep(_ONE, _response(str(i), text="y" * 500), [])
        assert len(kept.history(_ONE, "leaf")) == 2
    with pytest.raises(UsageError):
        kept.get(_ONE, "3")
    assert kept.get(_OTHER, "theirs") and kept.get(_ONE, "19")
    for name in ("one", "two", "three"):
        kept.keep(Owner(name), _response("mine", text="y" * 1200), [])
        assert kept.get(Owner(name), "mine")


def test_one_that_is_larger_than_all_room_is_not_kept() -> None:
    kept = KeptResponses(max_bytes=5000, max_bytes_each=3000)
    kept.keep(_ONE, _response("large", text="y" * 9000), [])
    with pytest.raises(UsageError):
        kept.get(_ONE, "large")
