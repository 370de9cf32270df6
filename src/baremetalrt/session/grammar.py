"""Output that follows a JSON schema or a grammar: which tokens may come next.

llguidance does the parsing; it is imported when a first grammar asks for it. libllama's own grammar
sampler has no JSON schema in its C interface, and throws C++ exceptions through it on input that it
dislikes, which would end the process.
"""

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import UsageError
from baremetalrt.session.json_schemas import bounded
from baremetalrt.session.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

# What follows of them may take time that grows with the square of this: so, a second at most.
_MAX_GRAMMAR_CHARS: Final = 1 << 16
# One space after separators and none elsewhere: small models lose themselves in free white space.
_JSON_STYLE: Final[Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


@dataclass(frozen=True)
class Grammar:
    """A compiled description of allowed output, in llguidance's own notation.

    `unkept`: what of a schema cannot be enforced, in words, if anything.
    """

    source: str
    unkept: str | None = None


def from_json_schema(schema: dict[str, Any] | bool) -> Grammar:
    """Output that is one JSON value matching `schema`, as far as that can be enforced.

    Raises:
        UsageError: the schema is not one, nothing matches it, or a pattern cannot be followed.
    """
    if schema is False:
        raise _bad("JSON schema", "nothing matches it")
    try:
        text = json.dumps({} if schema is True else bounded(schema), ensure_ascii=False)
    except (RecursionError, ValueError) as error:
        raise _bad("JSON schema", str(error)) from error
    _check_length("JSON schema", text)
    source, problem = _of_schema(text, _JSON_STYLE)
    if problem is None:
        return Grammar(source)
    lenient, still = _of_schema(text, {**_JSON_STYLE, "lenient": True})
    if still is not None:
        raise _bad("JSON schema", still)
    return Grammar(lenient, unkept=_first_line(problem))


def _of_schema(text: str, style: Any) -> tuple[str, str | None]:
    """The grammar of a schema, and what is wrong with it, if anything."""
    import llguidance

    try:
        source = llguidance.LLMatcher.grammar_from_json_schema(text, defaults=style)
    except ValueError as error:
        return "", str(error)
    problem = llguidance.LLMatcher.validate_grammar(source)
    return source, problem if problem and not problem.startswith("WARNING") else None


class Rules:
    """Rules of an answer that is put together, in llguidance's Lark notation."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._unkept: str | None = None

    def add(self, name: str, body: str, attributes: str = "") -> str:
        """The name of a new rule; of a terminal, if it is written in capitals."""
        unique = f"{name}{'_' if name.isupper() else ''}{len(self._lines)}"
        self._lines.append(f"{unique}{attributes}: {body}")
        return unique

    def json(self, schema: Any) -> str:
        """The rule of one JSON value; raises like `from_json_schema`."""
        checked = from_json_schema(schema)
        self._unkept = self._unkept or checked.unkept
        style = {**_JSON_STYLE, "lenient": checked.unkept is not None}
        fields = bounded(schema) if isinstance(schema, dict) else {}
        return self.add("json", f"%json {json.dumps({**fields, 'x-guidance': style})}")

    def grammar(self, start: str) -> Grammar:
        """Output that is what `start` says."""
        made = from_lark("\n".join([f"start: {start}", *self._lines, ""]))
        return Grammar(made.source, self._unkept)


def from_gbnf(text: str) -> Grammar:
    """Output that follows a grammar in llama.cpp's GBNF notation."""
    from llguidance.gbnf_to_lark import gbnf_to_lark

    _check_length("grammar", text)
    try:
        lark = gbnf_to_lark(text)
    except Exception as error:  # it raises nothing more special where a rule is missing
        raise _bad("grammar", str(error)) from error
    return _of_lark(lark)


def from_lark(text: str) -> Grammar:
    """Output that follows a grammar in llguidance's Lark notation."""
    _check_length("grammar", text)
    return _of_lark(text)


def _of_lark(text: str) -> Grammar:
    import llguidance

    try:
        source = llguidance.LLMatcher.grammar_from_lark(text)
    except ValueError as error:
        raise _bad("grammar", str(error)) from error
    return _validated(source, "grammar")


def _check_length(what: str, text: str) -> None:
    if len(text) > _MAX_GRAMMAR_CHARS:
        raise _bad(what, f"longer than {_MAX_GRAMMAR_CHARS} characters")


def _validated(source: str, what: str) -> Grammar:
    import llguidance

    problem = llguidance.LLMatcher.validate_grammar(source)
    if problem and not problem.startswith("WARNING"):
        raise _bad(what, problem)
    return Grammar(source)


def _bad(what: str, why: str) -> UsageError:
    if "look-around" in why:
        why = "look-around, such as (?=…) or (?<!…), cannot be followed in a pattern"
    return UsageError(f"the {what} cannot be used: {_first_line(why)}", code="grammar.invalid")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "not understood"


class GrammarCompiler:
    """Knows the tokens of one model; made when the first grammar is used, as it takes a moment."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._compiled: llguidance.LLTokenizer | None = None

    def matcher(self, grammar: Grammar) -> "GrammarMatcher":
        import llguidance

        with self._lock:
            if self._compiled is None:
                self._compiled = self._compile()
        return GrammarMatcher(llguidance.LLMatcher(self._compiled, grammar.source, log_level=0))

    def _compile(self) -> "llguidance.LLTokenizer":
        import llguidance

        ends = sorted(self._tokenizer.end_tokens) or [0]
        wrapper = llguidance.TokenizerWrapper(_TokenTable(self._tokenizer, ends[0]))
        return llguidance.LLTokenizer(wrapper, eos_token=ends)


class _TokenTable:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, eos: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos
        self.bos_token_id = tokenizer.bos_token
        self.special_token_ids = [i for i in range(tokenizer.size) if tokenizer.is_control(i)]
        special = set(self.special_token_ids)
        self.tokens = [
            tokenizer.name(i) if i in special else tokenizer.piece(i) for i in range(tokenizer.size)
        ]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"), special=False)


class GrammarMatcher:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: "llguidance.LLMatcher") -> None:
        self._matcher = matcher
        self._check()

    def allowed(self, vocabulary_size: int) -> NDArray[np.bool_]:
        """Which tokens may come next, one truth value per token of the vocabulary.

        Raises:
            UsageError: the grammar has become too complex to follow.
        """
        mask = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) != 0
        self._check()
        allowed = np.zeros(vocabulary_size, dtype=np.bool_)
        n = min(len(mask), vocabulary_size)
        allowed[:n] = mask[:n]
        return allowed

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end can follow."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _bad("grammar", self._matcher.get_error())
