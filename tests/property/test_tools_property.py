"""Tool calls are found in streamed text however it is cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from baremetalrt.serve.calls.call import Found, together
from baremetalrt.serve.calls.finder import CallFinder
from baremetalrt.serve.calls.notations import BY_NAME
from baremetalrt.serve.openai.schema import Function, Tool

TOOLS = (Tool(Function("look")), Tool(Function("send")))
CALL = '{"name": "look", "arguments": {"for": "</x>"}}'
# What an answer is made of: calls, near misses, and the parts of both.
PIECES = st.sampled_from(
    [
        CALL,
        '{"name": "send", "parameters": {"to": "é"}}',
        '{"name": "unknown", "arguments": {}}',
        f"[{CALL}, {CALL}]",
        "[]",
        "<tool_call>",
        "</tool_call>",
        "<tool_",
        "call>",
        "[TOOL_CALLS]",
        "[TOOL_",
        "<|python_tag|>",
        "{",
        "```",
        "```json\n",
        '{"name": "send", "arg',
        '"</tool_call>"',
        "look[ARGS]",
        '{"at": "sky"}',
        " ",
        "\n",
        "words",
    ]
)
ANSWERS = st.lists(PIECES, max_size=6).map("".join)
_SAID = '{"for": "</x>"}'
_BEGIN, _END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
WRITTEN = [
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>"),
    ("hermes", f"<tool_call>{CALL}"),
    ("llama", CALL),
    ("llama", f"<|python_tag|>{CALL}"),
    ("mistral-list", f"[TOOL_CALLS][{CALL}]"),
    ("mistral", f"[TOOL_CALLS]look[CALL_ID]abc[ARGS]{_SAID}"),
    ("mistral", f"[TOOL_CALLS]look[ARGS]{_SAID}"),
    ("phi", f"<|tool_call|>[{CALL}]<|/tool_call|>"),
    ("granite", f"<|tool_call|>[{CALL}]"),
    (
        "deepseek",
        f"<｜tool▁calls▁begin｜>{_BEGIN}function<｜tool▁sep｜>look\n```json\n{_SAID}\n```{_END}",
    ),
    (
        "deepseek-v3.1",
        f"<｜tool▁calls▁begin｜>{_BEGIN}look<｜tool▁sep｜>{_SAID}{_END}",
    ),
    ("gemma", '<|tool_call>call:look{for:<|"|></x><|"|>}<tool_call|>'),
    (
        "function-gemma",
        "<start_function_call>call:look{for:<escape></x><escape>}<end_function_call>",
    ),
    (
        "glm",
        "<tool_call>look\n<arg_key>for</arg_key>\n<arg_value></x></arg_value>\n</tool_call>",
    ),
    (
        "qwen-coder",
        "<tool_call><function=look>\n<parameter=for>\n</x>\n</parameter>\n</function></tool_call>",
    ),
]
NOTATIONS = [name for name, one in BY_NAME.items() if one.style != "channels"]
JSON_NOTATIONS = [name for name, one in BY_NAME.items() if one.style == "json"]


def read(notation: str, chunks: list[str]) -> Found:
    """All that is found once every chunk is in."""
    finder = CallFinder(BY_NAME[notation], TOOLS)
    return together([*(finder.add(chunk) for chunk in chunks), finder.finish()])


def find(notation: str, chunks: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """All text that is shown, and all calls."""
    found = read(notation, chunks)
    return found.text, [(call.name, call.arguments) for call in found.calls]


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("notation", NOTATIONS)
@given(text=ANSWERS, cuts=st.lists(st.integers(0, 200), max_size=8))
@example(text=f"<|python_tag|>{CALL}", cuts=[5])
@example(text=f"words {CALL}", cuts=[6])
def test_any_chunking_finds_the_same(notation: str, text: str, cuts: list[int]) -> None:
    """Text and calls of a stream are those of the whole answer."""
    assert find(notation, cut(text, cuts)) == find(notation, [text])


@pytest.mark.parametrize("notation", NOTATIONS)
@given(text=ANSWERS)
def test_what_is_no_call_is_shown(notation: str, text: str) -> None:
    """An answer without a call arrives whole; half a call at its end is nothing to anybody."""
    shown, calls = find(notation, [text])
    rest = text[len(shown) :]
    assert calls or shown == text or (text.startswith(shown) and ("look" in rest or "send" in rest))


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("text", [CALL, f"```json\n{CALL}\n```", f"```\n{CALL}\n```\n"])
def test_a_bare_call_is_found_in_every_notation(notation: str, text: str) -> None:
    assert _is_the_call(find(notation, list(text)))


@pytest.mark.parametrize(("notation", "text"), WRITTEN)
def test_a_call_is_found_letter_by_letter(notation: str, text: str) -> None:
    """Nothing of a call is shown as text, its arguments are JSON, and it comes in pieces."""
    assert _is_the_call(find(notation, list(text)))
    found = read(notation, list(f"words{text}" if BY_NAME[notation].opening else text))
    assert "".join(piece.arguments for piece in found.pieces) == found.calls[0].arguments
    assert [piece.name for piece in found.pieces if piece.name] == ["look"]
    assert found.pieces[0].name and {piece.id for piece in found.pieces} == {found.calls[0].id}


@pytest.mark.parametrize("notation", JSON_NOTATIONS)
def test_arguments_go_on_as_they_come(notation: str) -> None:
    """Long before the call is complete."""
    text = dict(WRITTEN)[notation]
    until = text.index('"for"') + 6
    pieces = read(notation, list(text[:until])).pieces
    assert "".join(piece.arguments for piece in pieces).startswith('{"for"')


def test_arguments_between_tags_go_on_one_by_one() -> None:
    text = dict(WRITTEN)["qwen-coder"].replace(
        "</function>", "<parameter=n>\n3\n</parameter>\n</function>"
    )
    found = read("qwen-coder", list(text))
    said = [piece.arguments for piece in found.pieces if piece.arguments]
    assert said == ['{"for": "</x>"', ', "n": 3', "}"]


def _is_the_call(found: tuple[str, list[tuple[str, str]]]) -> bool:
    shown, ((name, arguments),) = found
    return (shown, name, json.loads(arguments)) == ("", "look", {"for": "</x>"})


@pytest.mark.parametrize(("notation", "text"), WRITTEN)
def test_half_a_call_is_not_shown(notation: str, text: str) -> None:
    """An answer that was cut: nobody can use what there is of it, unless only marks are missing."""
    for length in range(text.index("look") + 5, len(text)):
        found = find(notation, [text[:length]])
        assert found == ("", []) or _is_the_call(found)
    for length in range(CALL.index("look") + 5, len(CALL)):
        found = find(notation, [CALL[:length]])
        assert found == ("", []) or _is_the_call(found)


@pytest.mark.parametrize("notation", NOTATIONS)
def test_several_calls(notation: str) -> None:
    """One after the other, with its own marks or in a list; the second is of another tool."""
    text = dict(WRITTEN)[notation]
    if CALL in text:
        text = text.replace(CALL, f"{CALL}, {CALL.replace('look', 'send')}")
    else:
        text += text.replace("look", "send")
    assert [name for name, _ in find(notation, list(text))[1]] == ["look", "send"]


def test_an_end_mark_in_an_argument_ends_nothing() -> None:
    call = json.dumps({"name": "send", "arguments": {"text": 'a</tool_call>"b'}})
    shown, ((_, arguments),) = find("hermes", list(f"<tool_call>{call}</tool_call>"))
    assert not shown and json.loads(arguments) == {"text": 'a</tool_call>"b'}


@pytest.mark.parametrize(
    "text", ["```python\nprint(1)\n```", "```", "{}", '{"name": "other"}', "`x`"]
)
@pytest.mark.parametrize("notation", NOTATIONS)
def test_code_is_no_call(notation: str, text: str) -> None:
    assert find(notation, list(text)) == (text, [])


@pytest.mark.parametrize("text", ['{"name": ["look"]}', f'{{"name": {"9" * 5000}}}'])
def test_json_that_is_no_call_is_text(text: str) -> None:
    """A name that is no string, or a number of 5000 digits, ends no stream."""
    assert find("llama", [text]) == (text, [])


@given(st.text(max_size=20))
def test_arguments_pass_through_unharmed(value: str) -> None:
    """Whatever a model writes into a string argument reaches the caller."""
    call = json.dumps({"name": "send", "arguments": {"text": value}})
    _, ((_, arguments),) = find("llama", [call])
    assert json.loads(arguments) == {"text": value}
