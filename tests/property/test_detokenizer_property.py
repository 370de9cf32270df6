"""Text that goes through the tokenizer comes out as it went in, never with half a character."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.session.tokenizer import Detokenizer, Tokenizer
from baremetalrt.weights.store import find_model

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# This vocabulary has no tokens for six control characters, nor for the first byte of characters in
# planes 4 to 11, where Unicode has none assigned.
UNKNOWN_BYTES = frozenset(b"\x04\x06\x13\x14\x16\x1d\xf1\xf2")
# Lone surrogates have no bytes at all.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"]).filter(lambda c: not UNKNOWN_BYTES & set(c.encode()))
)


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    tokenizer = Tokenizer(find_model(None).path)
    yield tokenizer
    tokenizer.close()


@given(text=TEXT | st.text("é漢🙂👨‍👩‍👧 a\n\0", max_size=20))
def test_tokens_one_by_one_give_the_text(tokenizer: Tokenizer, text: str) -> None:
    """Pieces join to the text, and none holds a replacement character that the text has not."""
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.add(t) for t in tokenizer.encode(text, special=False)]
    pieces.append(detokenizer.finish())
    assert "".join(pieces) == text
    assert REPLACEMENT in text or not any(REPLACEMENT in piece for piece in pieces)


def test_an_unfinished_character_waits(tokenizer: Tokenizer) -> None:
    """The first tokens of a character show nothing; without the rest it ends as a replacement."""
    first, *rest = tokenizer.encode("𓀀", special=False)
    assert rest, "a character of several tokens"
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.add(first) == ""
    assert detokenizer.finish() == REPLACEMENT


def test_control_tokens_show_nothing(tokenizer: Tokenizer) -> None:
    """`<|im_end|>` written by a user is text; read as a control token it has none."""
    (token,) = tokenizer.encode("<|im_end|>", special=True)
    assert tokenizer.is_control(token) and tokenizer.piece(token) == b""
    assert len(tokenizer.encode("<|im_end|>", special=False)) > 1
