"""Text to tokens and back, one token at a time, without ever showing half a character."""

import codecs
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final

from baremetalrt.native.vocabulary import FillTokens, Vocabulary

# libllama looks through the rest of a text after each control token in it: a prompt full of them
# would take minutes, unless it comes in pieces.
_PIECE_CHARS: Final = 1 << 12
# Stands between the letters of a name that is no control token, though it looks like one. Unicode keeps
# it free for such uses: no text has it.
MARK: Final = "\ufdd0"


class Tokenizer:
    """The vocabulary of a model file."""

    def __init__(self, path: Path) -> None:
        self._vocabulary = Vocabulary(path)
        # Foreign calls are slow next to a look-up, and the same tokens come again and again.
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self.size = self._vocabulary.size

    def encode(self, text: str, *, special: bool, add_bos: bool = False) -> list[int]:
        """Token ids of `text`; `special` reads control tokens where their names are written."""
        return self._vocabulary.tokenize(text, add_special=add_bos, parse_special=special)

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a whole prompt, with a begin-of-sequence token where the model wants one."""
        tokens = self._beginning(text)
        for piece in self._cut(text):
            tokens += self.encode(piece, special=True)
        return tokens

    def encode_chat(self, text: str, *, begins: bool = True) -> list[int]:
        """Token ids of a prompt that a template made, or, unless it `begins` there, of a part of one.

        Names of control tokens are those of the template; what content says is text, if `marked`.
        """
        tokens = self._beginning(text) if begins else []
        for piece, has_marks in self._apart(text):
            if has_marks:
                tokens += self.encode(piece.replace(MARK, ""), special=False)
                continue
            for part in self._cut(piece):
                tokens += self.encode(part, special=True)
        return tokens

    def marked(self, content: str) -> str:
        """The same text, with marks in what would be read as control tokens in a prompt."""
        content = content.replace(MARK, "\ufffd")
        if not self._mentions_markup(content):
            return content
        return self._control_names.sub(lambda name: MARK.join([*name[0], ""]), content)

    def _beginning(self, text: str) -> list[int]:
        bos = self._vocabulary.bos
        adds_bos = self._vocabulary.adds_bos and not (self.bos and text.startswith(self.bos))
        return [bos] if adds_bos and bos is not None else []

    def _mentions_markup(self, content: str) -> bool:
        if len(content) > _PIECE_CHARS:
            return self._control_names.search(content) is not None
        # For most texts there are: it saves looking through the whole vocabulary for names.
        return any(map(self._vocabulary.is_markup, self.encode(content, special=True)))

    def _apart(self, text: str) -> Iterator[tuple[str, bool]]:
        """A prompt in pieces with marks and without, cut at control tokens: there, all begins anew."""
        if MARK not in text:
            yield text, False
            return
        # Bounds of control tokens, and so of what is between them.
        bounds = {0, len(text)}
        for found in self._control_names.finditer(text):
            bounds |= {found.start(), found.end()}
        start = end = 0
        for a, b in pairwise(sorted(bounds)):
            if MARK in text[a:b]:
                if start < end:
                    yield text[start:end], False
                yield text[a:b], True
                start = b
            end = b
        if start < end:
            yield text[start:end], False

    def _cut(self, text: str) -> Iterator[str]:
        """A long text in pieces that begin with control tokens, where tokenizing starts anew anyway."""
        start = 0
        while len(text) - start > _PIECE_CHARS:
            found = self._control_names.search(text, start + _PIECE_CHARS)
            if found is None:
                break
            yield text[start : found.start()]
            start = found.start()
        yield text[start:]

    @cached_property
    def _control_names(self) -> re.Pattern[str]:
        names = (self.name(i) for i in range(self.size) if self._vocabulary.is_markup(i))
        texts = {name.decode("utf-8", "replace") for name in names if name}
        # The longest first, where one is the beginning of another.
        ordered = sorted(texts, key=lambda text: (-len(text), text))
        return re.compile("|".join(map(re.escape, ordered)) or "(?!)")

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._vocabulary.piece(token, special=False)
        return piece

    def name(self, token: int) -> bytes:
        """The bytes of a token, the names of control tokens included."""
        return self._vocabulary.piece(token, special=True)

    def is_end(self, token: int) -> bool:
        """Whether an answer ends with this token."""
        is_end = self._ends.get(token)
        if is_end is None:
            is_end = self._ends[token] = self._vocabulary.is_end(token)
        return is_end

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        return frozenset(i for i in range(self.size) if self._vocabulary.is_end(i))

    @property
    def bos_token(self) -> int | None:
        """The begin-of-sequence token, if there is one."""
        return self._vocabulary.bos

    @property
    def eos_token(self) -> int | None:
        """The end-of-sequence token, if there is one."""
        return self._vocabulary.eos

    @property
    def beginning(self) -> list[int]:
        """What every prompt begins with: the begin-of-sequence token where the model wants one."""
        return self._beginning("")

    @property
    def fill_tokens(self) -> FillTokens | None:
        """What a text with a gap is written with, where the model can fill one."""
        return self._vocabulary.fill

    @cached_property
    def bos(self) -> str:
        return self._special_text(self._vocabulary.bos)

    @cached_property
    def eos(self) -> str:
        return self._special_text(self._vocabulary.eos)

    def is_control(self, token: int) -> bool:
        return self._vocabulary.is_control(token)

    def knows(self, text: str) -> bool:
        """Whether `text` is one control token."""
        return len(self.encode(text, special=True)) == 1

    def _special_text(self, token: int | None) -> str:
        return "" if token is None else self.name(token).decode("utf-8", "replace")

    def close(self) -> None:
        self._vocabulary.close()


class Detokenizer:
    """Turns tokens into text as they come; bytes of an unfinished character wait for the rest."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.piece(token))

    def finish(self) -> str:
        """What is left when no more tokens come: replacement characters for unfinished bytes."""
        return self._decoder.decode(b"", final=True)
