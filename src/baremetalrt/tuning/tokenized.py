"""From examples to rows of tokens, with what is learned of each row.

Texts are packed one after another, with the end-of-sequence token between them, and cut into rows of one
length. Of a conversation, only the assistant's answers are learned. `labels[t]` is what follows `ids[t]`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import UsageError
from baremetalrt.session.chat_template import ChatTemplate
from baremetalrt.tuning.examples import Example

IGNORED: Final = -100
# A rest of a text shorter than this is not worth a row of its own.
_MIN_ROW: Final = 16


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def bos_token(self) -> int | None: ...
    @property
    def eos_token(self) -> int | None: ...
    def encode(self, text: str, *, special: bool, add_bos: bool = False) -> list[int]: ...
    def encode_chat(self, text: str, *, begins: bool = True) -> list[int]: ...


@dataclass(frozen=True)
class Row:
    """One row: token ids, and the label of each, or `IGNORED`."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def num_labels(self) -> int:
        return int((self.labels != IGNORED).sum())

    @classmethod
    def of(cls, tokens: Sequence[int], learned: Sequence[bool]) -> "Row":
        """`learned[t]` says whether the model is to learn to say `tokens[t]`."""
        all_ids = np.array(tokens, np.int64)
        labels = np.where(np.array(learned[1:], bool), all_ids[1:], IGNORED)
        return cls(all_ids[:-1], labels)


@dataclass(frozen=True)
class Tokenized:
    """Examples as tokens, before they are cut into rows: all texts as one stream, conversations apart."""

    stream: Sequence[int]
    conversations: Sequence[tuple[Sequence[int], Sequence[bool]]]

    @property
    def num_tokens(self) -> int:
        return len(self.stream) + sum(len(tokens) for tokens, _ in self.conversations)

    @property
    def longest(self) -> int:
        """The length of a row that would hold the longest of them whole."""
        return max([len(self.stream), *(len(tokens) for tokens, _ in self.conversations)])

    def rows(self, length: int) -> list[Row]:
        """Rows of at most `length` tokens. Conversations that are longer lose their end."""
        found = [
            Row.of(tokens[: length + 1], learned[: length + 1])
            for tokens, learned in self.conversations
        ]
        rows = [row for row in found if row.num_labels]
        for start in range(0, len(self.stream) - 1, length):
            piece = self.stream[start : start + length + 1]
            if len(piece) > _MIN_ROW or not rows:
                rows.append(Row.of(piece, [True] * len(piece)))
        return rows


def tokenize(examples: Iterable[Example], tokenizer: Encoder, template: ChatTemplate) -> Tokenized:
    """Raises `UsageError` when the chat template refuses a conversation."""
    stream: list[int] = []
    conversations = []
    for example in examples:
        if example.text is not None:
            stream += text_tokens(example.text, tokenizer)
        else:
            conversations.append(conversation_tokens(example, tokenizer, template))
    return Tokenized(stream, conversations)


def text_tokens(text: str, tokenizer: Encoder) -> list[int]:
    """A text as it stands; names of control tokens in it are letters like others."""
    end = tokenizer.eos_token
    return tokenizer.encode(text, special=False, add_bos=True) + ([] if end is None else [end])


def conversation_tokens(
    example: Example, tokenizer: Encoder, template: ChatTemplate
) -> tuple[list[int], list[bool]]:
    """Tokens of a conversation by the model's own template, and which of them are answers.

    Each answer begins where the prompt for it ends, and is tokenized apart from it, as when the model
    writes it itself.
    """
    parts = _parts(example, template)
    tokens: list[int] = []
    learned: list[bool] = []
    for text, is_answer in parts:
        more = tokenizer.encode_chat(text, begins=not tokens)
        tokens += more
        learned += [is_answer] * len(more)
    return tokens, learned


def prompt_text(example: Example, template: ChatTemplate) -> str:
    """What a model is given when it is asked for the last answer of a conversation, with marks."""
    messages = list(example.messages)
    last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
    return template.render(messages[:last])


def _parts(example: Example, template: ChatTemplate) -> list[tuple[str, bool]]:
    messages = list(example.messages)
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    parts: list[tuple[str, bool]] = []
    done = ""
    for i in answers:
        prompt = template.render(messages[:i])
        whole = template.render(messages[: i + 1], add_generation_prompt=False)
        if not prompt.startswith(done) or not whole.startswith(prompt):
            return _last_answer(messages, template)
        parts += [(prompt[len(done) :], False), (whole[len(prompt) :], True)]
        done = whole
    return [part for part in parts if part[0]]


def _last_answer(messages: list[dict[str, str]], template: ChatTemplate) -> list[tuple[str, bool]]:
    """For templates that write earlier turns differently as the conversation goes on."""
    last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
    prompt = template.render(messages[:last])
    whole = template.render(messages[: last + 1], add_generation_prompt=False)
    if whole.startswith(prompt):
        return [(prompt, False), (whole[len(prompt) :], True)]
    answer = messages[last]["content"]
    at = whole.rfind(template.marked(answer))
    if at < 0:
        raise UsageError(
            "the chat template does not show the answers of the assistant",
            code="template.refused",
        )
    return [(prompt, False), (whole[at:], True)]
