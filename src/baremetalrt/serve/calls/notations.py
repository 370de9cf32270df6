"""The notations in which models write calls.

Source: the chat templates of the models named here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# How the name and the arguments of a call follow each other in JSON.
OBJECT_HEAD: Final = (
    r'[\s,;\[\]}]*\{\s*(?:"(?:id|type)"\s*:\s*"[^"]*"\s*,\s*)*"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


@dataclass(frozen=True, kw_only=True)
class Notation:
    """How one family of models writes calls.

    `opening` and `closing` stand around calls; without them, an answer that begins like a call is one.
    `head`: a pattern of what is before the arguments, where they are a JSON object. `before` a call's
    arguments and `after` them is what a forced call is made of, `{}` being the name; `between` calls
    that share the marks, `None` where each has its own. `marks`: what else may be control tokens.
    """

    name: str
    signs: tuple[str, ...] = ()
    opening: str = ""
    closing: str = ""
    head: str = OBJECT_HEAD
    before: str = ""
    after: str = ""
    between: str | None = None
    marks: tuple[str, ...] = ()
    # of the words of a call that is not JSON
    parameter: str = ""
    style: str = "json"

    @property
    def brackets(self) -> tuple[str, str]:
        """Around calls that are written as a list."""
        return ("[", "]") if self.between == ", " else ("", "")

    @property
    def all_marks(self) -> frozenset[str]:
        """What may be control tokens, which have no text: they are told by their names."""
        return frozenset({self.opening, self.closing, *self.marks} - {""})


# {"name": …, "parameters": {…}} as the whole answer, maybe behind a tag
LLAMA: Final = Notation(
    name="llama",
    before='{"name": "{}", "parameters": ',
    after="}",
    between="; ",
    marks=("<|python_tag|>",),
)
_BEGIN, _END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR: Final = "<｜tool▁sep｜>"
# The order is that of looking for their signs in a template: the particular before the general.
NOTATIONS: Final = (
    # <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>
    Notation(
        name="harmony",
        signs=("<|channel|>", "<|message|>"),
        before="<|channel|>commentary to=functions.{} <|constrain|>json<|message|>",
        marks=("<|channel|>", "<|message|>", "<|constrain|>"),
        style="channels",
    ),
    # <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME and the arguments in a fence
    Notation(
        name="deepseek",
        signs=("<｜tool▁calls▁begin｜>", "```json"),
        opening="<｜tool▁calls▁begin｜>",
        closing="<｜tool▁calls▁end｜>",
        head=rf"[\s`]*(?:{_END})?\s*{_BEGIN}\w*{_SEPARATOR}(?P<name>[^\n]+)\n```(?:json)?\s*(?=\{{)",
        before=f"{_BEGIN}function{_SEPARATOR}{{}}\n```json\n",
        after=f"\n```{_END}",
        between="\n",
        marks=(_BEGIN, _END, _SEPARATOR),
    ),
    Notation(
        name="deepseek-v3.1",
        signs=("<｜tool▁calls▁begin｜>",),
        opening="<｜tool▁calls▁begin｜>",
        closing="<｜tool▁calls▁end｜>",
        head=rf"\s*(?:{_END})?\s*{_BEGIN}(?P<name>[^<\n]+){_SEPARATOR}\s*(?=\{{)",
        before=f"{_BEGIN}{{}}{_SEPARATOR}",
        after=_END,
        between="",
        marks=(_BEGIN, _END, _SEPARATOR),
    ),
    # <|tool_call>call:NAME{key:<|"|>text<|"|>,other:1}<tool_call|>
    Notation(
        name="gemma",
        signs=("<|tool_call>",),
        opening="<|tool_call>",
        closing="<tool_call|>",
        before="call:{}",
        marks=('<|"|>',),
        parameter='<|"|>',
        style="braces",
    ),
    Notation(
        name="function-gemma",
        signs=("<start_function_call>",),
        opening="<start_function_call>",
        closing="<end_function_call>",
        before="call:{}",
        marks=("<escape>",),
        parameter="<escape>",
        style="braces",
    ),
    # NAME and <arg_key>key</arg_key><arg_value>value</arg_value>
    Notation(
        name="glm",
        signs=("<tool_call>", "<arg_key>"),
        opening="<tool_call>",
        closing="</tool_call>",
        head=r"\s*(?P<name>[^\s<{\"]+)\s*(?=<arg_key>|</tool_call>)",
        before="{}\n",
        parameter="<arg_key>{}</arg_key>\n<arg_value>|</arg_value>\n",
        marks=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        style="tags",
    ),
    # <function=NAME><parameter=key>value</parameter></function>
    Notation(
        name="qwen-coder",
        signs=("<tool_call>", "<function=", "<parameter="),
        opening="<tool_call>",
        closing="</tool_call>",
        head=r"\s*<function=(?P<name>[^>\n]+)>\s*",
        before="\n<function={}>\n",
        after="</function>\n",
        parameter="<parameter={}>\n|\n</parameter>\n",
        style="tags",
    ),
    # {"name": …, "arguments": {…}}: Hermes, Qwen, SmolLM
    Notation(
        name="hermes",
        signs=("<tool_call>",),
        opening="<tool_call>",
        closing="</tool_call>",
        before='\n{"name": "{}", "arguments": ',
        after="}\n",
    ),
    # NAME[ARGS]{…}, maybe with an id between: Mistral's later models
    Notation(
        name="mistral",
        signs=("[TOOL_CALLS]", "[ARGS]"),
        opening="[TOOL_CALLS]",
        head=r"\s*(?:\[TOOL_CALLS\])?\s*(?P<name>[^\[\]{}\s]+)\s*(?:\[CALL_ID\][^\[\]]*)?\[ARGS\]\s*(?=\{)",
        before="{}[ARGS]",
        marks=("[ARGS]", "[CALL_ID]"),
    ),
    # [{"name": …, "arguments": {…}}]: Mistral
    Notation(
        name="mistral-list",
        signs=("[TOOL_CALLS]",),
        opening="[TOOL_CALLS]",
        before='{"name": "{}", "arguments": ',
        after="}",
        between=", ",
        marks=("[ARGS]", "[CALL_ID]"),
    ),
    # the same: Phi, and Granite, which does not close it
    Notation(
        name="phi",
        signs=("<|tool_call|>", "<|/tool_call|>"),
        opening="<|tool_call|>",
        closing="<|/tool_call|>",
        before='{"name": "{}", "arguments": ',
        after="}",
        between=", ",
    ),
    Notation(
        name="granite",
        signs=("<|tool_call|>",),
        opening="<|tool_call|>",
        before='{"name": "{}", "arguments": ',
        after="}",
        between=", ",
    ),
)
BY_NAME: Final = {one.name: one for one in (*NOTATIONS, LLAMA)}


def notation_of(template: str, knows: Callable[[str], bool]) -> Notation:
    """The notation that a template teaches; if it does not say, that of which the vocabulary `knows`
    the signs as tokens; else that without marks.
    """
    for one in NOTATIONS:
        if all(sign in template for sign in one.signs):
            return one
    for one in NOTATIONS:
        if one.opening and all(map(knows, one.signs)):
            return one
    return LLAMA


def head_of(notation: Notation) -> re.Pattern[str]:
    """What is before the arguments of a call, with its `name`."""
    return re.compile(notation.head, re.DOTALL)
