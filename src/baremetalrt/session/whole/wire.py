"""What a node and the process of a whole model say to each other: four bytes of length, then MessagePack.

One request, one reply. Logits do not travel: they are in memory that both have.
"""

import struct
from typing import IO, Final, Literal

import msgspec

from baremetalrt.native.whole_model import Reads, WholeConfig, WholeSlice

_LENGTH: Final = struct.Struct("<I")
_MAX_REPLY_BYTES: Final = 1 << 16


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The first request: the model. `paths`: its files, the first of which is loaded.

    `rows_file`: the open file that the logits of a step are written to. `is_confined`: whether no other
    file is to be in reach; drivers of devices need theirs.
    """

    paths: list[bytes]
    config: WholeConfig
    rows_file: int
    vocabulary_size: int
    is_confined: bool


class Cut(msgspec.Struct, frozen=True, tag="cut", array_like=True):
    """Forget all but the first tokens of a text."""

    text: int
    length: int


class Copy(msgspec.Struct, frozen=True, tag="copy", array_like=True):
    """Give an empty text the first tokens of another."""

    source: int
    target: int
    length: int


class Clear(msgspec.Struct, frozen=True, tag="clear", array_like=True):
    """Forget everything."""


Change = Cut | Copy | Clear


class Step(msgspec.Struct, frozen=True, array_like=True):
    """Changes of what is remembered, in order, and then a step."""

    changes: list[Change]
    slices: list[WholeSlice]
    reads: Reads


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is there. `can_cut`: texts can be cut anywhere."""

    can_cut: bool


class Computed(msgspec.Struct, frozen=True, tag="computed"):
    """The step is done; so many rows are there."""

    num_rows: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """One of our errors, in parts."""

    kind: Literal["integrity", "capacity"]
    message: str
    code: str
    hint: str | None


Reply = Loaded | Computed | Failed

_load_decoder: Final = msgspec.msgpack.Decoder(Load)
_step_decoder: Final = msgspec.msgpack.Decoder(Step)
_reply_decoder: Final = msgspec.msgpack.Decoder(Reply)
_encoder: Final = msgspec.msgpack.Encoder()


def encode(message: Load | Step | Reply) -> bytes:
    """One message as it is sent."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def read_load(stream: IO[bytes]) -> Load | None:
    """The first request; nothing at the end."""
    body = _frame(stream)
    return None if body is None else _load_decoder.decode(body)


def read_step(stream: IO[bytes]) -> Step | None:
    """The next step; nothing at the end."""
    body = _frame(stream)
    return None if body is None else _step_decoder.decode(body)


def _frame(stream: IO[bytes]) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def num_missing(data: bytes) -> int:
    """How many bytes are still to come of a reply that begins so; raises `ValueError` if too many."""
    if len(data) < _LENGTH.size:
        return _LENGTH.size - len(data)
    (length,) = _LENGTH.unpack_from(data)
    if length > _MAX_REPLY_BYTES:
        raise ValueError("a reply is longer than any can be")
    return int(_LENGTH.size + length - len(data))


def decode_reply(data: bytes) -> Reply:
    """A reply that has come; raises `ValueError` where it is none."""
    try:
        reply: Reply = _reply_decoder.decode(data[_LENGTH.size :])
    except msgspec.DecodeError as error:
        raise ValueError("this is no reply") from error
    return reply
