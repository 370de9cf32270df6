"""What clients send: texts, stop strings, schemas and grammars made to crash or to keep us busy."""

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from victim import Victim, assert_clear

from baremetalrt.core.errors import UsageError
from baremetalrt.session import grammar
from baremetalrt.session.stopping import StopMatcher
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.store import find_model

PATH = str(find_model(None).path)
CONTEXT = 8192
# As much as a prompt may have before it is refused unread, see `Model.encode`.
MAX_CHARS = 128 * CONTEXT
# The slowest takes a few seconds on a machine that does nothing else.
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with Victim() as victim:
        yield victim


PIECES = {
    "spaces": " ",
    "line-ends": "\n",
    "carriage-returns": "\r\n",
    "no-break-spaces": "\u00a0",
    "one-letter": "a",
    "digits": "1",
    "dots": ".",
    "quotes": "'",
    "dashes": "-",
    "emoji": "👩‍👧",
    "letters-with-accents": "e\u0301",
    "accents-alone": "\u0301",
    "invisible": "\u200b",
    "unassigned": "\U0010ffff",
    "nuls": "\0",
    "lone-surrogates": "\ud800",
    "words": " word",
    "everything": "a1 .\n漢'",
    "control-tokens": "<|im_start|>",
    "control-tokens-and-text": "<|im_end|>x",
    "half-control-tokens": "<|im_",
}


@pytest.mark.parametrize("name", PIECES)
def test_the_longest_prompts_are_tokenized_in_time(name: str, victim: Victim) -> None:
    """A million characters of one kind: no recursion runs out of stack, nothing is quadratic."""
    piece = PIECES[name]
    reply = victim.do(
        "encode", path=PATH, piece=piece, repeats=MAX_CHARS // len(piece), limit_s=LIMIT_S
    )
    assert reply["count"] > CONTEXT


def test_a_prompt_longer_than_any_context_is_refused_unread(victim: Victim) -> None:
    """One character more, and it is not even tokenized."""
    reply = victim.do("encode", path=PATH, piece="a", repeats=MAX_CHARS + 1)
    assert_clear(reply)
    assert (reply["error"], reply["code"]) == ("UsageError", "context.exceeded")


@pytest.mark.parametrize("text", [" a" * CONTEXT, "<|im_end|>" * (CONTEXT + 1)])
def test_a_prompt_that_exceeds_the_context_is_refused(text: str, victim: Victim) -> None:
    """Before anything is computed, and saying by how much."""
    reply = victim.do("answer", path=PATH, text=text, stop=[])
    assert_clear(reply)
    assert (reply["error"], reply["code"]) == ("UsageError", "context.exceeded")
    assert str(CONTEXT) in reply["message"]


@pytest.mark.parametrize("text", ["\0", "\ud800", "\u0301", "<|im_start|>", "\x1b[2J", "\ufeff"])
def test_odd_text_is_answered(text: str, victim: Victim) -> None:
    """Whatever the characters mean, they are tokens."""
    assert len(victim.do("answer", path=PATH, text=text, stop=[])["tokens"]) == 4


def test_an_empty_prompt_is_refused(victim: Victim) -> None:
    """There is nothing to continue."""
    reply = victim.do("answer", path=PATH, text="", stop=[])
    assert_clear(reply)
    assert reply["code"] == "prompt.empty"


@pytest.mark.parametrize(
    "stop",
    [["x" * 1_000_000], ["\0"], ["\ud800"], [""], ["x"] * 10_000, ["\ufffd", "\u0301"]],
    ids=["megabyte", "nul", "surrogate", "empty", "many", "replacement"],
)
def test_absurd_stop_strings_do_no_harm(stop: list[str], victim: Victim) -> None:
    """They are looked for and not found."""
    assert victim.do("answer", path=PATH, text="hello", stop=stop)["tokens"]


def test_a_stop_string_that_nearly_matches_is_cheap() -> None:
    """Text that could be the beginning of a long stop string is held back, and then shown."""
    stops = StopMatcher(["a" * 10_000 + "b"])
    shown = "".join(stops.add("a") for _ in range(20_000)) + stops.finish()
    assert shown == "a" * 20_000


def test_long_prompts_have_the_tokens_of_short_ones() -> None:
    """They are tokenized in pieces, which must not show."""
    tokenizer = Tokenizer(find_model(None).path)
    text = "<|im_start|>user\n one  two\n\n<|im_end|>\n<|im_ é漢   " * 2_000
    assert tokenizer.encode_prompt(text) == tokenizer.encode(text, special=True)
    tokenizer.close()


# schemas and grammars


def _nested(depth: int) -> dict[str, Any]:
    return functools.reduce(
        lambda inner, _: {"type": "array", "items": inner}, range(depth), {"type": "integer"}
    )


def _objects(count: int) -> dict[str, Any]:
    names = [f"p{i}" for i in range(count)]
    return {"type": "object", "properties": {n: {} for n in names}, "required": names}


def _pattern(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


BAD_SCHEMAS: dict[str, Any] = {
    "itself": {"$ref": "#"},
    "one-of-itself": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "nowhere": {"$ref": "#/definitions/nope"},
    "the-web": {"$ref": "http://example.com/schema"},
    "a-file": {"$ref": "file:///etc/passwd"},
    "invalid-regex": _pattern("("),
    "lookahead": _pattern("(?=a)b"),
    "huge-regex": _pattern("^(a{1000}){1000}$"),
    "longest-too-long": {"type": "string", "maxLength": 10**18},
    "longest-before-shortest": {"type": "string", "minLength": 5, "maxLength": 1},
    "least-over-most": {"type": "number", "minimum": 1e308, "maximum": -1e308},
    "number-too-long": {"type": "integer", "minimum": 10**400},
    "unknown-type": {"type": "nosuch"},
    "type-of-wrong-type": {"type": 5},
    "nothing-to-choose-from": {"enum": []},
    "contradiction": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "exponential-choice": {
        "allOf": [
            {"anyOf": [_objects(1), {"type": "object", "properties": {f"b{i}": {"const": 1}}}]}
            for i in range(24)
        ]
    },
    "lone-surrogate": {"const": "\ud800"},
    "deep": _nested(300),
    "long": {"enum": list(range(200_000))},
    "list": [1, 2],
    "text": "object",
    "null": None,
}
ODD_SCHEMAS: dict[str, Any] = {
    "exponential-regex": _pattern("^(a?){50}a{50}$"),
    "backtracking-regex": _pattern("^(a+)+$"),
    "huge-repetition": _pattern("a{1000000000}"),
    "endless-string": {"type": "string", "minLength": 10**9},
    "endless-list": {"type": "array", "minItems": 10**6},
    "many-properties": _objects(3_000),
    "many-choices": {"anyOf": [{"const": {f"a{i}": i}} for i in range(2_000)]},
    "nul": {"const": "\0"},
}
BAD_GRAMMARS = {
    "empty": "",
    "without-root": 'a ::= "x"',
    "itself": "root ::= root",
    "nowhere": "root ::= nope",
    "unclosed-string": 'root ::= "a',
    "unclosed-range": "root ::= [a-",
    "backward-range": "root ::= [z-a]",
    "nothing": "root ::= [^]",
    "backward-repetition": 'root ::= "a"{5,2}',
    "nested-repetition": 'root ::= ("a"{1000}){1000}',
    "huge-repetition": 'root ::= "a"{1000000000}',
    "doubling": "root ::= r0\n"
    + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(100))
    + '\nr100 ::= "a"',
    "deep": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
    "choices": "root ::= " + '"a" | ' * 100_000 + '"b"',
    "lone-surrogate": 'root ::= "\ud800"',
    "comments-only": "#" * 1_000_000,
    "line-ends-only": "\n" * 1_000_000,
    "too-long": "x" * (1 << 20) + "x",
}
ODD_GRAMMARS = {
    "left-recursion": 'root ::= root "a" | "a"',
    "ambiguous": 'root ::= a\na ::= a a | "a" | ""',
    "repeats-nothing": 'root ::= ""*',
    "large-class": "root ::= [" + "".join(map(chr, range(0x4E00, 0x9FFF))) + "]",
}
BAD_LARK = {
    "empty": "",
    "invalid-regex": "start: /(/",
    "itself": "start: start",
    "token-in-itself": 'start: A\nA: A "x"',
    "nowhere": "start: nope",
    "unknown-import": "%import nosuch.X\nstart: X",
    "broken-schema": "start: %json {",
    "huge-regex": "start: /(a{1000}){1000}/",
    "deep": "start: " + "(" * 100_000 + '"a"' + ")" * 100_000,
    "deep-regex": "start: /" + "(" * 100_000 + "a" + ")" * 100_000 + "/",
    "unknown-token": "start: <[999999999]>",
    "unknown-token-name": "start: <|nosuch|>",
    "lone-surrogate": 'start: "\ud800"',
    "too-long": "x" * (1 << 20) + "x",
}
ODD_LARK = {
    "exponential-regex": "start: /(a?){50}a{50}/",
    "exponential-automaton": "start: /(a|b)*a(a|b){30}/",
    "any-token": "start: <[*]>",
    "empty-complement": "start: ~/(.|\\n)*/",
}
BAD = [
    *(("schema", name, source) for name, source in BAD_SCHEMAS.items()),
    *(("gbnf", name, source) for name, source in BAD_GRAMMARS.items()),
    *(("lark", name, source) for name, source in BAD_LARK.items()),
]
ODD = [
    *(("schema", name, source) for name, source in ODD_SCHEMAS.items()),
    *(("gbnf", name, source) for name, source in ODD_GRAMMARS.items()),
    *(("lark", name, source) for name, source in ODD_LARK.items()),
]


@pytest.mark.parametrize(("kind", "name", "source"), BAD, ids=[f"{k}-{n}" for k, n, _ in BAD])
def test_schemas_and_grammars_that_cannot_be_followed_are_refused(
    kind: str, name: str, source: Any, victim: Victim
) -> None:
    """The user is told, before or while the answer is made; nothing is fetched or read."""
    reply = victim.do("follow", path=PATH, kind=kind, source=source, limit_s=LIMIT_S)
    assert_clear(reply)
    assert (reply["error"], reply["code"]) == ("UsageError", "grammar.invalid")


@pytest.mark.parametrize(("kind", "name", "source"), ODD, ids=[f"{k}-{n}" for k, n, _ in ODD])
def test_schemas_and_grammars_that_look_expensive_are_followed_in_time(
    kind: str, name: str, source: Any, victim: Victim
) -> None:
    """They are run as automata that are built as they are needed."""
    reply = victim.do("follow", path=PATH, kind=kind, source=source, limit_s=LIMIT_S)
    assert "tokens" in reply


def test_a_schema_too_deep_for_json_is_refused() -> None:
    """Python's own encoder gives up first."""
    with pytest.raises(UsageError, match="JSON schema"):
        grammar.from_json_schema(_nested(5_000))
