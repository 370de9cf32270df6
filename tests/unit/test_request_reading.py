"""Requests as programs send them that were written for other servers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.serve.calls.use import ToolUse, read_tools
from baremetalrt.serve.openai.generation import options_of
from baremetalrt.serve.openai.reading import read
from baremetalrt.serve.openai.schema import ChatRequest, CompletionRequest
from baremetalrt.session.grammar import GrammarCompiler, from_json_schema
from baremetalrt.session.json_schemas import bounded
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.recommended import recommended
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.store import find_model

_MESSAGES = {"messages": [{"role": "user", "content": "Hi"}]}
_TEMPLATE = "{{ tools }}<tool_call>"


def chat(**fields: object) -> ChatRequest:
    found = read(json.dumps(_MESSAGES | fields).encode(), ChatRequest)
    assert not found.ignored
    return found.request


def options(**fields: object):  # type: ignore[no-untyped-def]
    request = chat(**fields)
    return options_of(
        request,
        0,
        max_tokens=request.max_tokens,
        grammar=None,
        top_logprobs=None,
        recommended=SampleOptions(temperature=0.6, top_k=20),
    )


def test_what_is_not_said_is_as_the_model_is_meant() -> None:
    assert options().sampling == SampleOptions(temperature=0.6, top_k=20)
    assert options(temperature=0.1).sampling == SampleOptions(temperature=0.1, top_k=20)


def test_what_a_model_recommends_is_read_from_its_file() -> None:
    keys = {
        "general.sampling.temp": 0.6000000238418579,
        "general.sampling.top_k": 20,
        "general.sampling.top_p": 7.5,
        "general.sampling.min_p": "none",
        "general.sampling.penalty_repeat": float("nan"),
        "general.sampling.penalty_last_n": 128,
    }
    assert recommended(keys.get) == SampleOptions(temperature=0.6, top_k=20, penalty_window=128)
    assert recommended({}.get) == SampleOptions()


def test_fields_of_other_servers_mean_what_they_mean_there() -> None:
    got = options(
        repeat_penalty=1.1,
        n_predict=7,
        typical_p=0.9,
        repeat_last_n=-1,
        top_k=-1,
        ignore_eos=True,
        min_tokens=3,
        stop_token_ids=[5],
    )
    assert got.sampling.repetition_penalty == 1.1 and got.max_tokens == 7
    assert got.sampling.typical_p == 0.9 and got.sampling.top_k == 0
    assert got.sampling.penalty_window > 10_000
    assert got.ignore_end and got.min_tokens == 3 and got.stop_tokens == {5}


@pytest.mark.parametrize("given", [-1, None])
def test_no_limit_in_every_spelling(given: int | None) -> None:
    assert options(max_tokens=given).max_tokens is None


def test_an_answer_of_no_tokens_is_none() -> None:
    with pytest.raises(UsageError, match="at least one token"):
        options(max_tokens=0)


def test_a_guided_answer_is_a_response_format() -> None:
    form = chat(guided_json={"type": "object"}).response_format
    assert form is not None and form.json_schema is not None
    assert form.json_schema.schema == {"type": "object"}


def test_what_is_given_twice_counts_by_our_name() -> None:
    assert options(n_predict=7, max_tokens=9).max_tokens == 9


def test_unknown_fields_are_named_and_left_out() -> None:
    body = json.dumps(_MESSAGES | {"mirostat_eta": 1, "x\r\nset-cookie": 1}).encode()
    assert read(body, ChatRequest).ignored == ("mirostat_eta", "x\r\nset-cookie")
    with pytest.raises(UsageError, match="mirostat_eta") as caught:
        read(body, ChatRequest, is_strict=True)
    assert caught.value.parameter == "mirostat_eta"


@pytest.mark.parametrize(
    ("mistake", "meant"),
    [
        ("temprature", "temperature"),
        ("temperatur", "temperature"),
        ("tempereture", "temperature"),
        ("temeprature", "temperature"),
        ("top_pp", "top_p"),
        ("max_token", "max_tokens"),
        ("stopp", "stop"),
        ("streem", "stream"),
    ],
)
def test_a_letter_too_many_or_too_few_is_a_mistake(mistake: str, meant: str) -> None:
    with pytest.raises(UsageError, match=mistake) as caught:
        read(json.dumps(_MESSAGES | {mistake: 1}).encode(), ChatRequest)
    assert caught.value.hint == f"is {meant} meant?"


@pytest.mark.parametrize("field", ["top_h", "seeds_of_doubt", "min_length", "user_id", "n_keep"])
def test_other_words_are_no_mistakes(field: str) -> None:
    body = json.dumps(_MESSAGES | {field: 1}).encode()
    if field == "top_h":
        with pytest.raises(UsageError):
            read(body, ChatRequest)
    else:
        assert read(body, ChatRequest).ignored == (field,)


def test_many_unknown_fields_are_refused_at_once() -> None:
    """However many, and however long: nobody else waits for it."""
    fields = {f"field_{i}": 1 for i in range(200_000)} | {"x" * 1_000_000: 1}
    body = json.dumps(_MESSAGES | fields).encode()
    with pytest.raises(UsageError, match="not known"):
        read(body, ChatRequest)
    long = json.dumps(_MESSAGES | {"temperatur" * 100_000: 1}).encode()
    assert len(read(long, ChatRequest).ignored) == 1


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        read(body, ChatRequest)
    with pytest.raises(UsageError):
        read(body, CompletionRequest)


def tools_of(**fields: object) -> ToolUse | None:
    return read_tools(chat(**fields), _TEMPLATE, lambda _: False)


def test_functions_are_tools() -> None:
    functions = [{"name": "look"}, {"name": "send"}]
    use = tools_of(functions=functions)
    assert use is not None and use.are_functions and use.must == "may"
    assert [tool.function.name for tool in use.tools] == ["look", "send"]
    use = tools_of(functions=functions, function_call={"name": "send"})
    assert use is not None and use.must == "one"
    assert [tool.function.name for tool in use.wanted] == ["send"]
    assert tools_of(functions=functions, function_call="none") is None


def test_only_allowed_tools_are_offered() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("look", "send")]
    named = [{"type": "function", "function": {"name": "send"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named}}
    use = tools_of(tools=tools, tool_choice=choice)
    assert use is not None and [tool.function.name for tool in use.tools] == ["send"]
    assert use.must == "may"
    choice["allowed_tools"] |= {"mode": "required"}  # type: ignore[operator]
    use = tools_of(tools=tools, tool_choice=choice)
    assert use is not None and use.must == "some"
    use = tools_of(tools=tools, tool_choice="required", parallel_tool_calls=False)
    assert use is not None and use.must == "one"
    named[0]["function"]["name"] = "shout"  # type: ignore[index]
    with pytest.raises(UsageError, match="shout"):
        tools_of(tools=tools, tool_choice=choice)


def test_halves_of_characters_are_replaced() -> None:
    """Programs that cut texts in the middle of one send them."""
    body = b'{"messages": [{"role": "user", "content": "x \\ud83d y"}]}'
    found = read(body, ChatRequest)
    assert found.request.messages[0].content == "x ? y"


@pytest.mark.parametrize(
    ("schema", "unkept"),
    [
        (True, None),
        ({"type": "string", "format": "uuid4"}, "Unknown format: uuid4"),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "properties": {"a": True, "b": {"not": {}}}}, "not"),
        ({"type": "string", "format": "uuid"}, None),
    ],
)
def test_schemas_are_kept_as_far_as_they_can_be(schema: Any, unkept: str | None) -> None:
    grammar = from_json_schema(schema)
    assert (grammar.unkept is None) == (unkept is None)
    assert unkept is None or unkept in (grammar.unkept or "")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (False, "nothing matches"),
        ({"type": "string", "pattern": "^(?=.*a).*$"}, "look-around"),
        ({"type": "string", "pattern": "("}, "cannot be used"),
        ({"type": 7}, "cannot be used"),
    ],
)
def test_schemas_that_cannot_be_are_refused_in_words(schema: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        from_json_schema(schema)


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    tokenizer = Tokenizer(find_model(None).path)
    yield tokenizer
    tokenizer.close()


@pytest.mark.parametrize("start", ["", "-", "0.", "7.5", "-3.25"])
def test_no_number_goes_on_for_ever(tokenizer: Tokenizer, start: str) -> None:
    """A model that only ever says `1` is made to end."""
    matcher = GrammarCompiler(tokenizer).matcher(from_json_schema({"type": "number"}))
    said = 0
    for letter in start + "1" * 100:
        token = tokenizer.encode(letter, special=False)[-1]
        if not matcher.allowed(tokenizer.size)[token]:
            break
        matcher.accept(token)
        said += 1
    assert len(start) < said < 30


def test_bounds_are_put_where_none_are() -> None:
    bounds = {"minimum": -(2**53) + 1, "maximum": 2**53 - 1}
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "integer"},
            "n": {"type": ["number", "null"], "minimum": 3},
            "big": {"type": "integer", "minimum": 10**20},
            "one": {"type": "integer", "enum": [1]},
        },
        "$defs": {"x": {"anyOf": [{"type": "number", "exclusiveMaximum": 0}]}},
    }
    found = bounded(schema)
    assert found["properties"]["type"] == {"type": "integer", **bounds}
    more = {"maximum": 2**53 - 1, "multipleOf": 1e-9}
    assert found["properties"]["n"] == schema["properties"]["n"] | more  # type: ignore[index]
    assert found["properties"]["big"]["maximum"] == 10**20
    assert found["properties"]["one"] == {"type": "integer", "enum": [1]}
    assert found["$defs"]["x"]["anyOf"][0]["minimum"] == -(2**53) + 1
