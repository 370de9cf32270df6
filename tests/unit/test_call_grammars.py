"""What an answer must look like, in every notation: it is followed, and what follows it is found."""

import json
from typing import Any

import pytest

from baremetalrt.serve.calls.answers import AnswerForm
from baremetalrt.serve.calls.call import Call
from baremetalrt.serve.calls.notations import BY_NAME, Notation, notation_of
from baremetalrt.serve.calls.use import ToolUse
from baremetalrt.serve.openai.reasoning import THINK, ThoughtMarks
from baremetalrt.serve.openai.schema import Function, Tool
from baremetalrt.session.grammar import Grammar, GrammarCompiler
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.store import find_model

_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "at": {"type": "string"},
        "size": {"type": "string", "enum": ["large", "small"]},
        "n": {"type": "integer"},
        "exact": {"type": "boolean"},
    },
    "required": ["at", "n"],
    "additionalProperties": False,
}
LOOK, SEND = Tool(Function("look", parameters=_PARAMETERS)), Tool(Function("send"))
_SHORT = {"at": 'a "b" <c>', "n": 3}
_LONG = {"at": "sky", "size": "small", "n": 12, "exact": True}
_SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(find_model(None).path)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


def follows(text: str, grammar: Grammar, compiler: GrammarCompiler, tokenizer: Tokenizer) -> bool:
    """Whether an answer may be this text, and end there."""
    matcher = compiler.matcher(grammar)
    for token in tokenizer.encode(text, special=False):
        if not matcher.allowed(tokenizer.size)[token]:
            return False
        matcher.accept(token)
    ends = sorted(tokenizer.end_tokens)
    return matcher.is_complete or bool(matcher.allowed(tokenizer.size)[ends].any())


def use(notation: Notation, must: Any = "one", **more: Any) -> ToolUse:
    return ToolUse(notation, (LOOK, SEND), must, (LOOK,), **more)


def form(tokenizer: Tokenizer, notation: Notation, **more: Any) -> AnswerForm:
    fields: dict[str, Any] = {"thoughts": None, "is_inside": False} | more
    return AnswerForm(tokenizer, has_channels=notation.style == "channels", **fields)


def written(notation: Notation, arguments: dict[str, Any]) -> str:
    """The call as a model writes it that keeps to the notation."""
    n = notation
    before = n.before.replace("{}", "look", 1)
    if n.style in ("json", "channels"):
        inner = json.dumps(arguments) + n.after
    elif n.style == "tags":
        key, value = n.parameter.split("|")
        inner = ""
        for name, one in arguments.items():
            said = one if isinstance(one, str) else json.dumps(one)
            inner += key.replace("{}", name) + said + value
        inner += n.after
    else:
        quote = n.parameter
        pairs = (
            f"{name}:{quote}{one}{quote}" if isinstance(one, str) else f"{name}:{json.dumps(one)}"
            for name, one in arguments.items()
        )
        inner = "{" + ",".join(pairs) + "}"
    return n.opening + n.brackets[0] + before + inner + n.brackets[1] + n.closing


def calls_in(text: str, notation: Notation, tokenizer: Tokenizer) -> list[Call]:
    reader = form(tokenizer, notation).reader(use(notation))
    pieces = [*(reader.add(letter) for letter in text), reader.finish(is_cut=False)]
    assert not "".join(piece.text for piece in pieces).strip()
    return [call for piece in pieces for call in piece.calls]


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("arguments", [_SHORT, _LONG])
def test_a_call_that_must_come(
    name: str, arguments: dict[str, Any], tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    """It may be what models write, is found again, and nothing else may come."""
    n = BY_NAME[name]
    grammar = form(tokenizer, n).grammar(use(n))
    text = written(n, arguments)
    assert follows(text, grammar, compiler, tokenizer)
    (call,) = calls_in(text, n, tokenizer)
    assert call.name == "look" and json.loads(call.arguments) == arguments
    for other in ("Hello", text.replace("look", "send"), text.replace("12", "x"), text + text):
        assert other == text or not follows(other, grammar, compiler, tokenizer)


@pytest.mark.parametrize("name", BY_NAME)
def test_several_calls_may_come(name: str, tokenizer: Tokenizer, compiler: GrammarCompiler) -> None:
    n = BY_NAME[name]
    one = written(n, _SHORT)
    if n.style == "channels":
        pytest.skip("the mark behind a call ends the answer")
    grammar = form(tokenizer, n).grammar(use(n, "some"))
    head, tail = n.opening + n.brackets[0], n.brackets[1] + n.closing
    if n.between is None:
        two = one + ("\n" if n.closing.startswith("</") else "") + one
    else:
        inner = one.removeprefix(head).removesuffix(tail)
        two = head + inner + n.between + inner + tail
    for text, count in ((one, 1), (two, 2)):
        assert follows(text, grammar, compiler, tokenizer), text
        assert len(calls_in(text, n, tokenizer)) == count


@pytest.mark.parametrize("name", BY_NAME)
def test_a_schema_and_tools_at_once(
    name: str, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    n = BY_NAME[name]
    grammar = form(tokenizer, n).grammar(use(n, "may"), schema=_SCHEMA)
    answer = ("<|channel|>final<|message|>" if n.style == "channels" else "") + '{"answer": 4}'
    for text in (answer, written(n, _SHORT)):
        assert follows(text, grammar, compiler, tokenizer)
    assert not follows("Hello", grammar, compiler, tokenizer)


@pytest.mark.parametrize("is_inside", [False, True])
@pytest.mark.parametrize("tools", [False, True])
def test_a_thought_comes_before_what_must(
    is_inside: bool, tools: bool, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    """A model that thinks first is not kept from it, and its thought is none of the answer."""
    n = BY_NAME["hermes"]
    made = form(tokenizer, n, thoughts=THINK, is_inside=is_inside)
    used = use(n) if tools else None
    grammar = made.grammar(used, schema=None if tools else _SCHEMA)
    answer = written(n, _SHORT) if tools else '{"answer": 4}'
    thought = f"{'' if is_inside else THINK.opening}\nHm, {{ 4?\n{THINK.closing}\n\n"
    assert follows(thought + answer, grammar, compiler, tokenizer)
    assert follows(answer, grammar, compiler, tokenizer) != is_inside
    assert not follows(f"{thought}So: {answer}", grammar, compiler, tokenizer)
    reader = made.reader(used)
    news = [*(reader.add(letter) for letter in thought + answer), reader.finish(is_cut=False)]
    assert "".join(one.thought for one in news) == "Hm, { 4?"
    assert "".join(one.text for one in news) == ("" if tools else answer)


def test_channels_are_told_apart() -> None:
    """However the answer is cut: thoughts, words in between, a call, and what is for the user."""
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "I look.<|end|><|start|>assistant<|channel|>commentary to=functions.look "
        '<|constrain|>json<|message|>{"at": 1}'
    )
    for size in range(1, 40):
        for is_cut in (False, True):
            reader = AnswerForm(None, None, False, True).reader(use(BY_NAME["harmony"]))  # type: ignore[arg-type]
            news = [reader.add(text[i : i + size]) for i in range(0, len(text), size)]
            news.append(reader.finish(is_cut=is_cut))
            assert "".join(one.thought for one in news) == "Hm."
            assert "".join(one.text for one in news) == "I look."
            pieces = [piece for one in news for piece in one.pieces]
            assert "".join(piece.arguments for piece in pieces) == '{"at": 1}'
            assert [c.name for one in news for c in one.calls] == ([] if is_cut else ["look"])


@pytest.mark.parametrize("text", ["Hello", "<|start|>", "<|channel|>final", "<"])
def test_an_answer_that_has_lost_its_channels(text: str) -> None:
    reader = AnswerForm(None, None, False, True).reader(None)  # type: ignore[arg-type]
    news = [*(reader.add(letter) for letter in text), reader.finish(is_cut=False)]
    assert "".join(one.text for one in news) in (text, "")


def test_a_notation_is_told_by_the_template_and_the_tokens() -> None:
    def of(template: str, *tokens: str) -> str:
        return notation_of("{{ tools }}" + template, lambda text: text in tokens).name

    assert of("") == "llama"
    assert of("<tool_call></tool_call>") == "hermes"
    assert of("<tool_call><function=x><parameter=y>") == "qwen-coder"
    assert of("", "[TOOL_CALLS]", "[ARGS]") == "mistral"
    assert of("", "[TOOL_CALLS]") == "mistral-list"
    assert of("[TOOL_CALLS]") == "mistral-list"
    assert of("a word on tool_call> and channels") == "llama"
    assert of("<|channel|><|message|>", "<tool_call>") == "harmony"
    assert of("<|tool_call|>") == "granite"


@pytest.mark.parametrize(
    ("template", "marks"),
    [
        ("<think></think>", THINK),
        ("[THINK][/THINK]", ThoughtMarks("[THINK]", "[/THINK]")),
        ("<|channel>thought\n<channel|>", ThoughtMarks("<|channel>thought", "<channel|>")),
        ("<|channel|>analysis<|message|>", None),
        ("nothing", None),
    ],
)
def test_thoughts_are_marked_in_several_ways(
    template: str, marks: ThoughtMarks | None, tokenizer: Tokenizer
) -> None:
    assert AnswerForm.of(template, tokenizer, [1, 2]).thoughts == marks
