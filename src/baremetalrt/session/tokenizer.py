"""Text to tokens and back, one token at a time, without ever showing half a character."""

import codecs
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

from baremetalrt.native.vocabulary import Vocabulary

# libllama looks through the rest of a text after each control token in it: a prompt full of them
# would take minutes, unless it comes in pieces.
_PIECE_CHARS: Final = 1 << 12


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
        add_bos = self._vocabulary.adds_bos and not (self.bos and text.startswith(self.bos))
        tokens = [self.bos_token] if add_bos else []
        for piece in self._cut(text):
            tokens += self.encode(piece, special=True)
        return tokens

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
        names = (self.name(i) for i in range(self.size) if self.is_control(i))
        texts = (re.escape(name.decode("utf-8", "replace")) for name in names if name)
        return re.compile("|".join(texts) or "(?!)")

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
    def bos_token(self) -> int:
        """The begin-of-sequence token, or -1."""
        return self._vocabulary.bos

    @property
    def eos_token(self) -> int:
        """The end-of-sequence token, or -1."""
        return self._vocabulary.eos

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

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else self.name(token).decode("utf-8", "replace")

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
