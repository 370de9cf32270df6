"""The tokenizer of libllama, loaded from the header of a GGUF alone.

Source: `llama.h`, with `vocab_only`.
"""

import ctypes
from pathlib import Path
from typing import Final, NamedTuple

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.native import logs
from baremetalrt.native.handle import Handle
from baremetalrt.native.library import load_library

# Source: `llama_token_attr` in `llama.h`.
_UNKNOWN_OR_CONTROL: Final = 1 | 8
# Source: `llama_model_loader`, or who calls it; it has no code for this.
_UNKNOWN_ARCHITECTURES: Final = ("unknown model architecture", "unsupported model architecture")


class FillTokens(NamedTuple):
    """The tokens around what is before a gap and behind it, and in front of other files."""

    prefix: int
    suffix: int
    middle: int
    repository: int | None
    file: int | None


class Vocabulary(Handle):
    """Text to token ids and back. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Loads the vocabulary of the GGUF at `path`.

        `check_vocabulary` must have passed.

        Raises:
            UsageError: libllama does not know the architecture of the model.
            IntegrityError: it refuses the vocabulary.
        """
        self._c = load_library().c
        parameters = self._c.llama_model_default_params()
        parameters.vocab_only = True
        with logs.silenced(self._c):
            pointer = self._c.llama_model_load_from_file(bytes(path), parameters)
        if not pointer:
            # Once more, for the reason.
            with logs.captured_errors() as lines:
                pointer = self._c.llama_model_load_from_file(bytes(path), parameters)
        if not pointer and any(said in line for line in lines for said in _UNKNOWN_ARCHITECTURES):
            raise UsageError(
                f"{path.name} has an architecture that the library does not know",
                code="model.unknown-architecture",
                hint="it may need a newer library",
            )
        if not pointer:
            raise IntegrityError(
                f"{path.name}: the vocabulary cannot be loaded: "
                f"{logs.reason(lines, 'libllama refuses it')}",
                code="gguf.vocabulary",
                source=str(path),
                hint="the file is damaged or needs a newer library",
            )
        super().__init__(pointer, self._c.llama_model_free, what="a vocabulary")
        self._vocab = self._c.llama_model_get_vocab(pointer)
        self.size = int(self._c.llama_vocab_n_tokens(self._vocab))
        # The tokens that begin and end a sequence, where there are such.
        self.bos = _token(self._c.llama_vocab_bos(self._vocab))
        self.eos = _token(self._c.llama_vocab_eos(self._vocab))
        self.fill = self._fill_tokens()
        self.adds_bos = bool(self._c.llama_vocab_get_add_bos(self._vocab))
        adds_eos = bool(self._c.llama_vocab_get_add_eos(self._vocab))
        if (self.adds_bos and self.bos is None) or (adds_eos and self.eos is None):
            # libllama would end the process at the first prompt.
            raise IntegrityError(
                f"the vocabulary of {path.name} adds a token that it does not name",
                code="gguf.vocabulary",
                source=str(path),
            )

    def _fill_tokens(self) -> FillTokens | None:
        c, vocab = self._c, self._vocab
        prefix, suffix, middle, repository, file = (
            _token(ask(vocab))
            for ask in (
                c.llama_vocab_fim_pre,
                c.llama_vocab_fim_suf,
                c.llama_vocab_fim_mid,
                c.llama_vocab_fim_rep,
                c.llama_vocab_fim_sep,
            )
        )
        if prefix is None or suffix is None or middle is None:
            return None
        return FillTokens(prefix, suffix, middle, repository, file)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`.

        `add_special` puts the begin-of-sequence token in front where the model wants one;
        `parse_special` reads `<|im_end|>` and its like as one control token.
        """
        # A lone surrogate, as JSON may carry one, has no bytes of its own.
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = self._c.llama_tokenize(
                self._vocab, raw, len(raw), tokens, room, add_special, parse_special
            )
            if count >= 0:
                return tokens[:count]
            room = -count

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes of one token; control tokens have some only when `special`."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._c.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def is_end(self, token: int) -> bool:
        """Whether generation ends with this token (end of sequence, of turn, of message)."""
        return bool(self._c.llama_vocab_is_eog(self._vocab, token))

    def is_control(self, token: int) -> bool:
        return bool(self._c.llama_vocab_is_control(self._vocab, token))

    def is_markup(self, token: int) -> bool:
        """Whether its name is read as one token only where that is asked for: see `tokenize`."""
        return bool(self._c.llama_vocab_get_attr(self._vocab, token) & _UNKNOWN_OR_CONTROL)


def _token(found: int) -> int | None:
    """libllama says -1 where there is none."""
    return None if found < 0 else int(found)
