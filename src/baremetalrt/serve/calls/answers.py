"""How answers of one model look: whether it thinks, calls, or speaks in channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from baremetalrt.serve.calls import grammars
from baremetalrt.serve.calls.channels import MARKS as CHANNEL_MARKS
from baremetalrt.serve.calls.channels import ChannelFinder
from baremetalrt.serve.calls.finder import CallFinder
from baremetalrt.serve.calls.news import News
from baremetalrt.serve.calls.notations import LLAMA
from baremetalrt.serve.calls.use import ToolUse
from baremetalrt.serve.openai import reasoning
from baremetalrt.serve.openai.reasoning import ThoughtFinder, ThoughtMarks
from baremetalrt.session.grammar import Grammar, Rules, from_json_schema
from baremetalrt.session.tokenizer import Tokenizer

_ANALYSIS: Final = ("<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant")
_FINAL: Final = "<|channel|>final<|message|>"


class AnswerReader(Protocol):
    """Reads an answer as it comes."""

    # control tokens that mean something in it
    marks: frozenset[str]

    def add(self, text: str) -> News: ...

    def finish(self, *, is_cut: bool) -> News:
        """What is left at the end; `is_cut` by the limit of its length."""


class _PlainReader:
    """A thought, maybe, and then text and calls."""

    def __init__(
        self, thoughts: ThoughtFinder | None, marks: frozenset[str], tools: ToolUse | None
    ):
        self._thoughts = thoughts
        self._calls = CallFinder(tools.notation, tools.tools) if tools else None
        self.marks = marks | (self._calls.marks if self._calls else frozenset())

    def add(self, text: str) -> News:
        thought, text = self._thoughts.add(text) if self._thoughts else ("", text)
        return self._read(thought, text)

    def _read(self, thought: str, text: str) -> News:
        if self._calls is None or not text:
            return News(thought, text)
        found = self._calls.add(text)
        return News(thought, found.text, found.pieces)

    def finish(self, *, is_cut: bool) -> News:
        news = self._read(*(self._thoughts.finish() if self._thoughts else ("", "")))
        if self._calls is None:
            return news
        last = self._calls.finish()
        return News(news.thought, news.text + last.text, [*news.pieces, *last.pieces])


@dataclass(frozen=True)
class AnswerForm:
    """How an answer to one prompt looks. `is_inside`: the prompt has begun a thought."""

    tokenizer: Tokenizer
    thoughts: ThoughtMarks | None
    is_inside: bool
    has_channels: bool

    @staticmethod
    def of(template: str, tokenizer: Tokenizer, prompt: Sequence[int]) -> "AnswerForm":
        has_channels = "<|channel|>" in template and "<|message|>" in template
        thoughts = None if has_channels else reasoning.marks_of(template)
        is_inside = thoughts is not None and reasoning.begins_inside(thoughts, tokenizer, prompt)
        return AnswerForm(tokenizer, thoughts, is_inside, has_channels)

    def reader(self, tools: ToolUse | None) -> AnswerReader:
        """Reads one answer."""
        if self.has_channels:
            return ChannelFinder(tools.names if tools else frozenset())
        if self.thoughts is None:
            return _PlainReader(None, frozenset(), tools)
        finder = ThoughtFinder(self.thoughts, is_inside=self.is_inside)
        return _PlainReader(finder, self.thoughts.tokens, tools)

    def grammar(
        self, tools: ToolUse | None, schema: dict[str, Any] | bool | None = None
    ) -> Grammar:
        """What must come: a call where that is a must, or else what matches a schema, or a call.

        A thought may come before it. Raises `UsageError` where a schema is none.
        """
        is_plain = tools is None and self.thoughts is None and not self.has_channels
        if is_plain and schema is not None:
            return from_json_schema(schema)
        rules = Rules()
        wording = grammars.Wording(self._control_token, rules)
        if tools is not None and tools.must != "may":
            may_be_several = tools.must == "some"
            body = grammars.calls(
                wording, tools.notation, tools.wanted, may_be_several=may_be_several
            )
        elif tools is not None and tools.notation is LLAMA:
            # Two rules that begin alike are one for whoever reads letter by letter.
            body = rules.json(grammars.call_or_answer(tools.tools, schema))
        else:
            before = wording.text(_FINAL, CHANNEL_MARKS) if self.has_channels else ""
            body = f"{before} {rules.json(schema)}"
            if tools is not None:
                several = tools.may_be_several
                called = grammars.calls(
                    wording, tools.notation, tools.tools, may_be_several=several
                )
                body = f"({called} | {body})"
        return rules.grammar(f"{self._thought(wording)} {body}")

    def _thought(self, wording: grammars.Wording) -> str:
        if self.has_channels:
            opening, end, start = _ANALYSIS
            said = (wording.text(text, CHANNEL_MARKS) for text in (opening, start))
            return "({0} {2} {1})?".format(*said, wording.until(end))
        if self.thoughts is None:
            return ""
        return grammars.thought(wording, self.thoughts, is_inside=self.is_inside)

    def _control_token(self, text: str) -> int | None:
        tokens = self.tokenizer.encode(text, special=True)
        is_one = len(tokens) == 1 and self.tokenizer.is_control(tokens[0])
        return tokens[0] if is_one else None
