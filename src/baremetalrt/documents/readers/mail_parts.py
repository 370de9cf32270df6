"""What a part of a mail says of itself, read so that nothing it says is fatal."""

import re
from collections.abc import Iterator
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from typing import Final

from baremetalrt.documents.charset import decode
from baremetalrt.documents.cleaning import one_line_title

# What the standard library raises for mails that follow no rules.
PARSE_ERRORS: Final = (MessageError, ValueError, LookupError, TypeError, AssertionError)
_MAX_FIELD_CHARS: Final = 200


def typed_headers(part: Message) -> Iterator[str]:
    """The headers whose parameters will be parsed, as they are."""
    for name, value in part.raw_items():
        if name.lower() in ("content-type", "content-disposition"):
            yield str(value)


def is_flowed(part: Message) -> bool:
    """Whether some line ends are the mail program's."""
    return str(part.get_param("format") or "").lower() == "flowed"


def unflow(text: str) -> str:
    """Joins the lines that a mail program broke. Source: RFC 3676, section 4."""
    joined: list[str] = []
    is_open = False
    for line in text.replace("\r\n", "\n").split("\n"):
        is_quote = line.startswith(">")
        if is_open and not is_quote and line != "-- ":
            joined[-1] += line.removeprefix(" ")
        else:
            joined.append(line if is_quote else line.removeprefix(" "))
        is_open = line.endswith(" ") and line != "-- " and not is_quote
    return "\n".join(joined)


def text_of(part: Message) -> str:
    """The text of a part, in whatever encoding."""
    return decode(payload_of(part), charset_of(part))


def payload_of(part: Message) -> bytes:
    """The bytes of a part; none where they cannot be told."""
    try:
        payload = part.get_payload(decode=True)
    except PARSE_ERRORS:
        return b""
    return payload if isinstance(payload, bytes) else b""


def charset_of(part: Message) -> str | None:
    """The encoding that a part names."""
    try:
        return part.get_content_charset()
    except PARSE_ERRORS:
        return None


def filename_of(part: Message) -> str:
    """The name of an attachment, without folders; empty where it has none."""
    try:
        name = unfold(part.get_filename() or "")
    except PARSE_ERRORS:
        return ""
    # Only a name: the sender may have written a path.
    return re.split(r"[/\\]", name)[-1][-120:]


def field_of(message: Message, name: str) -> str:
    """A header on one line, for people."""
    # Raw, because spam has bytes in its headers that belong to no encoding it names.
    value = next((v for k, v in message.raw_items() if k.lower() == name.lower()), "")
    return one_line_title(unfold(str(value)), _MAX_FIELD_CHARS)


def unfold(value: str) -> str:
    """A header as people see it, whatever encodings are in it."""
    value = value[:4000]
    pieces = []
    try:
        if not value.isascii():
            value = decode(value.encode("utf-8", "surrogateescape"))
        for piece, charset in decode_header(value):
            pieces.append(decode(piece, charset) if isinstance(piece, bytes) else piece)
    except PARSE_ERRORS:
        return value
    return "".join(pieces)
