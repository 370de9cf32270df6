"""Tool calls are found in streamed text however it is cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from baremetalrt.serve.openai.schema import Function, Tool
from baremetalrt.serve.openai.tools import CallFinder, Notation, ToolUse

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
Found = tuple[str, list[tuple[str, str]]]
NOTATIONS = ["hermes", "mistral", "llama"]


def find(notation: Notation, chunks: list[str]) -> Found:
    """All text that is shown, and all calls, once every chunk is in."""
    finder = CallFinder(ToolUse(notation, TOOLS, None))
    results = [*(finder.add(chunk) for chunk in chunks), finder.finish()]
    calls = [(call.name, call.arguments) for _, found in results for call in found]
    return "".join(text for text, _ in results), calls


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("notation", NOTATIONS)
@given(text=ANSWERS, cuts=st.lists(st.integers(0, 200), max_size=8))
@example(text=f"<|python_tag|>{CALL}", cuts=[5])
@example(text=f"words {CALL}", cuts=[6])
def test_any_chunking_finds_the_same(notation: Notation, text: str, cuts: list[int]) -> None:
    """Text and calls of a stream are those of the whole answer."""
    assert find(notation, cut(text, cuts)) == find(notation, [text])


@pytest.mark.parametrize("notation", ["hermes", "mistral", "llama"])
@given(text=ANSWERS)
def test_what_is_no_call_is_shown(notation: Notation, text: str) -> None:
    """An answer without a call arrives whole; half a call at its end is nothing to anybody."""
    shown, calls = find(notation, [text])
    assert calls or shown == text or (text.startswith(shown) and '"name": "' in text[len(shown) :])


@pytest.mark.parametrize(
    ("notation", "text"),
    [
        ("hermes", f"<tool_call>\n{CALL}\n</tool_call>"),
        ("hermes", f"<tool_call>{CALL}"),
        ("mistral", f"[TOOL_CALLS][{CALL}]"),
        ("llama", CALL),
        ("llama", f"<|python_tag|>{CALL}"),
        *((notation, CALL) for notation in NOTATIONS),
        *((notation, f"```json\n{CALL}\n```") for notation in NOTATIONS),
        *((notation, f"```\n{CALL}\n```\n") for notation in NOTATIONS),
        ("mistral", '[TOOL_CALLS]look[ARGS]{"for": "</x>"}'),
        ("mistral", '[TOOL_CALLS]look[CALL_ID]abc[ARGS]{"for": "</x>"}'),
    ],
)
def test_a_call_is_found_letter_by_letter(notation: Notation, text: str) -> None:
    """Nothing of a call is shown as text, and its arguments are JSON."""
    shown, ((name, arguments),) = find(notation, list(text))
    assert (shown, name, json.loads(arguments)) == ("", "look", {"for": "</x>"})


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("length", range(18, len(CALL)))
def test_half_a_call_is_not_shown(notation: Notation, length: int) -> None:
    """An answer that was cut: nobody can use what there is of it."""
    opening = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS][", "llama": ""}[notation]
    assert find(notation, [opening + CALL[:length]]) == ("", [])
    assert find(notation, [CALL[:length]]) == ("", [])


def test_several_calls_of_the_newer_notation() -> None:
    text = '[TOOL_CALLS]look[ARGS]{"a": 1}[TOOL_CALLS]send[ARGS]{"b": 2}'
    assert find("mistral", list(text)) == ("", [("look", '{"a": 1}'), ("send", '{"b": 2}')])


def test_an_end_mark_in_an_argument_ends_nothing() -> None:
    call = json.dumps({"name": "send", "arguments": {"text": 'a</tool_call>"b'}})
    shown, ((_, arguments),) = find("hermes", list(f"<tool_call>{call}</tool_call>"))
    assert not shown and json.loads(arguments) == {"text": 'a</tool_call>"b'}


@pytest.mark.parametrize(
    "text", ["```python\nprint(1)\n```", "```", "{}", '{"name": "other"}', "`x`"]
)
@pytest.mark.parametrize("notation", NOTATIONS)
def test_code_is_no_call(notation: Notation, text: str) -> None:
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
