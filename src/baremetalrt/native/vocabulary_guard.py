"""Looks at a vocabulary before libllama does: what is refused here would end the process there.

Reads the raw header, because the C reader hands strings out one foreign call at a time, which takes
twice as long; it runs beside the C reader while a model opens. Bounds are checked as if nobody else
did.

Source: `llama-vocab.cpp`: the assertion that tokens are unique, and the byte fallback of `byte_to_token`.
"""

import mmap
import os
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import open_regular
from baremetalrt.native.gguf import HEADER_LIMIT_BYTES

# Tokenizers that the architectures here come with. Others have code paths that end the process on
# tokens they do not like.
_SENTENCEPIECE: Final = b"llama"
_BYTE_PAIRS: Final = b"gpt2"
_STRING: Final = 8
_ARRAY: Final = 9
_SCALAR_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# Far more than the average token takes, length included.
_SPLIT_BYTES_PER_STRING: Final = 32
_COUNT: Final = struct.Struct("<Q")
_TYPE: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct("<4sIQQ")
_ARRAY_HEAD: Final = struct.Struct("<IQ")


def check_vocabulary(path: Path) -> None:
    """Passes if libllama can load the vocabulary of the GGUF at `path` without ending the process.

    Raises:
        UsageError: the kind of tokenizer is not known here.
        IntegrityError: there is no vocabulary, or a damaged one.
    """
    try:
        with open_regular(path) as f:
            size = min(os.fstat(f.fileno()).st_size, HEADER_LIMIT_BYTES)
            with mmap.mmap(f.fileno(), size, access=mmap.ACCESS_READ) as header:
                kind, tokens = _find(header)
    except (struct.error, ValueError, OverflowError, OSError) as error:
        raise _damaged(path, "cannot be found in the header") from error
    if kind not in (_SENTENCEPIECE, _BYTE_PAIRS):
        name = kind.decode("utf-8", "replace")
        raise UsageError(
            f"{path.name} has the tokenizer {name or 'none'!r}, which is not known here",
            code="model.unknown-tokenizer",
            hint="known: gpt2, llama",
        )
    if not tokens:
        raise _damaged(path, "has no tokens")
    seen = set(tokens)
    if b"" in seen or b"\0" in b"".join(tokens):
        # libllama sees C strings, and gives empty ones a name of their own.
        cut = (token.partition(b"\0")[0] for token in tokens)
        seen = {token or b"[EMPTY_%d]" % i for i, token in enumerate(cut)}
    if len(seen) != len(tokens):
        raise _damaged(path, f"has {len(tokens) - len(seen)} tokens twice")
    if kind == _SENTENCEPIECE and not _covers_bytes(seen):
        raise _damaged(path, "has no token for some bytes")


def _covers_bytes(tokens: Collection[bytes]) -> bool:
    """Whether every byte is a token, named `<0x41>` or by itself."""
    return all(b"<0x%02X>" % b in tokens or (b and bytes([b]) in tokens) for b in range(256))


def _find(data: mmap.mmap) -> tuple[bytes, list[bytes]]:
    """The kind of tokenizer and its tokens; raises `struct.error` or `ValueError` past the end."""
    _, _, _, num_values = _HEADER.unpack_from(data)
    at = _HEADER.size
    kind, tokens = b"", list[bytes]()
    for _ in range(num_values):
        key, at = _string(data, at)
        type_ = _TYPE.unpack_from(data, at)[0]
        at += _TYPE.size
        if key == b"tokenizer.ggml.tokens":
            tokens, at = _strings(data, at)
        elif key == b"tokenizer.ggml.model" and type_ == _STRING:
            kind, at = _string(data, at)
        else:
            at = _skip(data, at, type_)
        if kind and tokens:
            break
    return kind, tokens


def _string(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    end = at + _COUNT.size + _COUNT.unpack_from(data, at)[0]
    if end > len(data):
        raise ValueError("a string ends outside of the header")
    return data[at + _COUNT.size : end], end


def _strings(data: mmap.mmap, at: int) -> tuple[list[bytes], int]:
    type_, count = _ARRAY_HEAD.unpack_from(data, at)
    if type_ != _STRING or count * _COUNT.size > len(data):
        raise ValueError("not an array of strings within the header")
    at += _ARRAY_HEAD.size
    return _short_strings(data, at, count) or _any_strings(data, at, count)


def _short_strings(data: mmap.mmap, at: int, count: int) -> tuple[list[bytes], int] | None:
    """The same for strings of 1 to 255 bytes, which is what tokens are, in a third of the time.

    The lengths of two neighbours are then one byte and seven zeros: splitting at the zeros leaves
    every string with the length of the next one at its end.
    """
    rest = data[at : at + _SPLIT_BYTES_PER_STRING * count]
    pieces = rest.split(b"\0" * 7, count)
    if len(pieces) != count + 1 or len(pieces[0]) != 1:
        return None
    rest = pieces.pop()
    if not all(pieces):
        return None  # an empty string is among them
    last = rest[: pieces[-1][-1]]
    found = [piece[:-1] for piece in pieces[1:]]
    found.append(last)
    lengths = list(map(len, found))
    if lengths != [piece[-1] for piece in pieces]:
        return None
    return found, at + _COUNT.size * count + sum(lengths)


def _any_strings(data: mmap.mmap, at: int, count: int) -> tuple[list[bytes], int]:
    unpack = _COUNT.unpack_from
    found = []
    for _ in range(count):
        start = at + 8
        at = start + unpack(data, at)[0]
        found.append(data[start:at])
    if at > len(data):
        raise ValueError("a string ends outside of the header")
    return found, at


def _skip(data: mmap.mmap, at: int, type_: int) -> int:
    if type_ == _STRING:
        return _string(data, at)[1]
    if type_ != _ARRAY:
        return at + _SCALAR_BYTES.get(type_, len(data))
    inner: int
    count: int
    inner, count = _ARRAY_HEAD.unpack_from(data, at)
    if inner == _STRING:
        return _strings(data, at)[1]
    return at + _ARRAY_HEAD.size + count * _SCALAR_BYTES.get(inner, len(data))


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"the vocabulary of {path.name} {what}", code="gguf.vocabulary", source=str(path)
    )
