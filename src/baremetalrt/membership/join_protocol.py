"""What is said when somebody joins a private swarm, over TLS 1.3.

inviter  ── Hello: the authority's certificate ──▶  joiner     checks it against the invitation,
inviter  ◀── Join: the token, a signing request ──  joiner     and the inviter's own under it
inviter  ── Issued: a certificate, or Refused ───▶  joiner
"""

import asyncio
import contextlib
import struct
from typing import Final, TypeAlias, TypeVar

import msgspec

# With the longest list of who was put out.
MAX_MESSAGE_BYTES: Final = 128 * 1024
DEADLINE_S: Final = 10.0
_LENGTH: Final = struct.Struct(">I")

_M = TypeVar("_M")
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Hello(msgspec.Struct, tag="hello", forbid_unknown_fields=True):
    """First from the inviter: the certificate of the authority (DER), which anybody may know."""

    authority: bytes


class Join(msgspec.Struct, tag="join", forbid_unknown_fields=True):
    """The joiner's answer: the token of the invitation, and a certificate signing request (DER)."""

    token: bytes
    request: bytes


class Issued(msgspec.Struct, tag="issued", forbid_unknown_fields=True, omit_defaults=True):
    """Last from the inviter: the new member's certificate (DER).

    Once somebody was put out also the list of them, and a certificate for torrents under its root.
    """

    certificate: bytes
    for_torrents: bytes = b""
    expulsions: bytes = b""


class Refused(msgspec.Struct, tag="refused", forbid_unknown_fields=True):
    """Last from the inviter: there is no certificate. The code is one of those of `refusal`."""

    code: str


HELLO: Final = msgspec.msgpack.Decoder(Hello)
JOIN: Final = msgspec.msgpack.Decoder(Join)
ANSWER: Final[msgspec.msgpack.Decoder[Issued | Refused]] = msgspec.msgpack.Decoder(Issued | Refused)


async def send(writer: asyncio.StreamWriter, message: msgspec.Struct) -> None:
    """Writes one message, its length in front of it."""
    data = msgspec.msgpack.encode(message)
    writer.write(_LENGTH.pack(len(data)) + data)
    async with asyncio.timeout(DEADLINE_S):
        await writer.drain()


async def receive(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[_M]) -> _M:
    """Reads one message, if it is of the type that the decoder expects.

    Raises:
        OSError, EOFError: it did not arrive in time, or in full.
        ValueError: it is too long, or something else.
    """
    async with asyncio.timeout(DEADLINE_S):
        (num_bytes,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if num_bytes > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {num_bytes} bytes")
        data = await reader.readexactly(num_bytes)
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        # Its text quotes what a stranger sent; ours goes to logs and terminals.
        raise ValueError("a message of another kind") from error


async def close(writer: asyncio.StreamWriter) -> None:
    """Hangs up, and waits for it, but not for long."""
    writer.close()
    with contextlib.suppress(OSError, EOFError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
