"""What parent and reading process say to each other: four bytes of length, then MessagePack.

Before a request comes the file itself, opened, where the system can hand it over: then its reader needs
no right to open any.
"""

import os
import socket
import struct
from typing import IO, BinaryIO, Final

import msgspec

from baremetalrt.documents.document import Document, Origin, Reached, Unread
from baremetalrt.documents.kinds import FileKind
from baremetalrt.documents.limits import ReadingLimits

_LENGTH: Final = struct.Struct("<I")
# Not on Windows, where the reader opens files by name.
HANDS_OVER: Final = hasattr(socket, "send_fds")
# Four bytes for each character of the largest text, and room for its names.
_MAX_FRAME_BYTES: Final = 160 << 20


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One file to read.

    `skip_to` and `number`: where in a mailbox to go on; `is_fatal`: after the message there.
    """

    path: bytes
    origin: Origin
    kind: FileKind | None = None
    skip_to: int = 0
    number: int = 1
    is_fatal: bool = False


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The file was read to its end; said once before all, the process is ready."""


class OutOfMemory(msgspec.Struct, frozen=True, kw_only=True, tag="memory"):
    """The file, or the message reached last, needs too much memory; the process ends."""


Reply = Document | Unread | Reached | Done | OutOfMemory

_reply_decoder: Final = msgspec.msgpack.Decoder(Reply)
_request_decoder: Final = msgspec.msgpack.Decoder(Request)
_limits_decoder: Final = msgspec.msgpack.Decoder(ReadingLimits)


def write(stream: IO[bytes], message: Reply | Request | ReadingLimits) -> None:
    """Sends one message."""
    body = msgspec.msgpack.encode(message)
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def hand_over(connection: socket.socket, file: BinaryIO) -> None:
    """Gives the other process a file that is open here."""
    socket.send_fds(connection, [b"f"], [file.fileno()])


def take_over(connection: socket.socket) -> BinaryIO | None:
    """The file that was handed over; nothing at the end."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    return os.fdopen(descriptors[0], "rb") if descriptors else None


def read_reply(stream: IO[bytes]) -> Reply | None:
    """The next message; nothing where the process ended, or says what it should not."""
    body = _frame(stream)
    try:
        return None if body is None else _reply_decoder.decode(body)
    except msgspec.DecodeError:
        return None


def read_request(stream: IO[bytes]) -> Request | None:
    """The next file to read; nothing at the end."""
    body = _frame(stream)
    return None if body is None else _request_decoder.decode(body)


def read_limits(stream: IO[bytes]) -> ReadingLimits | None:
    """The first message of all."""
    body = _frame(stream)
    return None if body is None else _limits_decoder.decode(body)


def _frame(stream: IO[bytes]) -> bytes | None:
    head = _read(stream, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    return _read(stream, length) if length <= _MAX_FRAME_BYTES else None


def _read(stream: IO[bytes], length: int) -> bytes | None:
    """So many bytes; an unbuffered stream, which takes nothing of what is handed over, gives fewer."""
    found = bytearray()
    while len(found) < length:
        more = stream.read(length - len(found))
        if not more:
            return None
        found += more
    return bytes(found)
