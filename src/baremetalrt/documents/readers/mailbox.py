"""Mailboxes in one file, message by message: never more of the file in memory than one message.

The standard library's `mailbox.mbox` keeps a table of all messages, and reads a message whole however
large it is.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from baremetalrt.documents.document import Document, Reached, Refusal, Unread
from baremetalrt.documents.readers.mail import ReadPart, read_message
from baremetalrt.documents.readers.source import Source

_CHUNK_BYTES: Final = 1 << 20
# A message begins with `From `, a sender and a date, and what follows is a header: not all programs that
# write mailboxes escape such lines in texts, or leave a blank line above.
_DATED: Final = (
    rb"(?=[^\r\n]{0,1000}\b\d{1,2}:\d\d\b)(?=[^\r\n]{0,1000}\b(?:19|20)\d\d\b)[^\r\n]{0,1000}\r?\n"
    rb"(?:>?From [^\r\n]{0,1000}\r?\n)?"
)
# Some write no date; then it takes an address alone, below a blank line. What is searched for is a word
# that begins the expression: nothing else is quick.
_BORDER: Final = re.compile(
    rb"From (?:(?<=\nFrom )(?=" + _DATED + rb"[!-9;-~]+:)"
    rb"|(?:(?<=\n\nFrom )|(?<=\n\r\nFrom ))(?=[^\s@]{1,500}@[^\s@]{1,500}[ \t]*\r?\n[!-9;-~]+:))"
)
_START: Final = re.compile(rb"\A(?:From [^\r\n]*\r?\n)?(?:>?From [^\r\n]*\r?\n)?")
# What a border may take, so that one is not overlooked where two chunks meet.
_MAX_BORDER_BYTES: Final = 2200


def read_mailbox(source: Source, read_part: ReadPart) -> Iterator[Document | Unread | Reached]:
    """The messages, each after a `Reached`."""
    number = source.number
    for offset, data in messages(source.file, source.skip_to, source.limits.message_bytes):
        origin = source.origin.inside(f"message {number}")
        number += 1
        if source.is_fatal and offset == source.skip_to:
            continue
        yield Reached(offset=offset, number=number - 1)
        try:
            if data is None:
                size = source.limits.message_bytes >> 20
                raise Refusal("document.too-large", f"it is larger than {size} MiB")
            part = dataclasses.replace(source, origin=origin)
            yield from read_message(_START.sub(b"", data), part, read_part)
        except Refusal as refusal:
            yield Unread(origin=origin, reason=refusal.reason, code=refusal.code)


def messages(file: BinaryIO, start: int, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Where each message begins, and its bytes; `None` for those larger than `max_bytes`."""
    file.seek(start)
    held, base = bytearray(), start  # `base` is where in the file `held` begins
    began, is_skipping, searched = start, False, 0
    while True:
        chunk = file.read(_CHUNK_BYTES)
        held += chunk
        at = 0
        while border := _BORDER.search(held, max(at + 1, searched)):
            is_too_large = is_skipping or border.start() - at > max_bytes
            yield began, None if is_too_large else bytes(held[at : border.start()]).rstrip(b"\r\n")
            at = border.start()
            began, is_skipping = base + at, False
        if not chunk:
            break
        if len(held) - at > max_bytes:
            is_skipping = True
        if is_skipping:
            at = max(at, len(held) - _MAX_BORDER_BYTES)
        del held[:at]
        base += at
        searched = max(0, len(held) - _MAX_BORDER_BYTES)
    if is_skipping or len(held) - at > max_bytes:
        yield began, None
    elif held[at:].strip():
        yield began, bytes(held[at:])
