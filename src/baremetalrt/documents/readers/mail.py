"""One mail: who wrote what to whom, and what was attached."""

import email
import io
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from email import policy
from email.message import Message
from quopri import decodestring
from typing import Final

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Origin, Refusal, Unread
from baremetalrt.documents.readers.html import html_to_text
from baremetalrt.documents.readers.mail_parts import (
    PARSE_ERRORS,
    charset_of,
    field_of,
    filename_of,
    is_flowed,
    payload_of,
    text_of,
    unflow,
)
from baremetalrt.documents.readers.mail_structure import MAILS, sort_parts
from baremetalrt.documents.readers.quoting import own_words
from baremetalrt.documents.readers.source import Source, too_large

Item = Document | Unread
ReadPart = Callable[[Source], Iterator[Item]]
_SUFFIXES: Final = {
    "text/html": ".html",
    "text/markdown": ".md",
    "text/calendar": ".ics",
    "text/vcard": ".vcf",
    "text/x-vcard": ".vcf",
    "text/directory": ".vcf",
    "text/rtf": ".rtf",
    "application/rtf": ".rtf",
    "application/epub+zip": ".epub",
    "application/pdf": ".pdf",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.oasis.opendocument.text": ".odt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}
_FIELDS: Final = ("Subject", "From", "To", "Date")
_ESCAPED_FROM: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
# Apple Mail puts the length before a mail, and its own notes after it.
_LENGTH_LINE: Final = re.compile(rb"(\d{1,12})[ \t]*\r?\n")
_MAX_HEADER_BYTES: Final = 1 << 20


def read_mail(source: Source, read_part: ReadPart) -> Iterator[Item]:
    """The mail itself, then its attachments; `read_part` reads those."""
    data = source.file.read(source.limits.message_bytes + 1)
    if len(data) > source.limits.message_bytes:
        raise too_large("it is", source.limits.message_bytes)
    if length := _LENGTH_LINE.match(data):
        data = data[length.end() : length.end() + int(length[1])]
    yield from read_message(data, source, read_part)


def read_message(data: bytes, source: Source, read_part: ReadPart) -> Iterator[Item]:
    """Like `read_mail`, of bytes.

    Raises:
        Refusal: nothing of it can be read.
    """
    if source.depth > source.limits.depth:
        raise Refusal("document.nested", f"it is inside of more than {source.limits.depth} mails")
    # Parsing headers takes the square of their length in places.
    start = data[:_MAX_HEADER_BYTES]
    if len(start) < len(data) and b"\n\n" not in start and b"\n\r\n" not in start:
        raise too_large("its headers are", _MAX_HEADER_BYTES)
    try:
        # The older policy keeps headers as they are; the newer one fails on what spam has in them.
        message = email.message_from_bytes(_ESCAPED_FROM.sub(rb"\1", data), policy=policy.compat32)
    except RecursionError as error:
        raise Refusal("document.nested", "its parts are nested too deeply") from error
    except PARSE_ERRORS as error:
        raise Refusal("document.damaged", f"it is damaged: {error}") from error
    yield from _read(message, source, read_part)


def _read(message: Message, source: Source, read_part: ReadPart) -> Iterator[Item]:
    parts = sort_parts(message, source.origin, source.limits)
    fields = {name: field_of(message, name) for name in _FIELDS}
    context = "\n".join(f"{name}: {value}" for name, value in fields.items() if value)
    text = clean("\n\n".join(filter(None, map(_body_text, parts.bodies))))
    if has_words(text):
        yield Document(
            text=text,
            origin=source.origin,
            kind="mail",
            title=one_line_title(fields["Subject"]),
            context=context,
        )
    elif not parts.attachments and not parts.refusals:
        raise EMPTY
    yield from parts.refusals
    for number, part in enumerate(parts.attachments, 1):
        yield from _read_attachment(part, number, source, read_part)


def _body_text(part: Message) -> str:
    text = text_of(part)
    if part.get_content_type() == "text/html":
        text = html_to_text(text, is_mail=True)[1]
    elif is_flowed(part):
        text = unflow(text)
    return own_words(text.replace("\r\n", "\n"))


def _read_attachment(
    part: Message, number: int, source: Source, read_part: ReadPart
) -> Iterator[Item]:
    kind = part.get_content_type()
    name = filename_of(part)
    origin = source.origin.inside(one_line_title(name or f"part {number}"))
    try:
        if kind in MAILS:
            yield from _read_attached_mail(part, _inner(source, origin, b"", name, None), read_part)
            return
        data = payload_of(part)
        if not data.strip():
            raise EMPTY
        suffix = _SUFFIXES.get(kind, "")
        name = name if "." in name or not suffix else f"{name or 'part'}{suffix}"
        yield from read_part(_inner(source, origin, data, name, charset_of(part)))
    except Refusal as refusal:
        yield Unread(origin=origin, reason=refusal.reason, code=refusal.code)


def _read_attached_mail(part: Message, source: Source, read_part: ReadPart) -> Iterator[Item]:
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    for inner in part.get_payload() if part.is_multipart() else []:
        if not isinstance(inner, Message):
            continue
        if encoding not in ("base64", "quoted-printable"):
            yield from _read(inner, source, read_part)
            continue
        # No mail may be encoded as a whole. Programs do it all the same, and the parser does not see it.
        try:
            data = inner.as_bytes().lstrip(b"\r\n")
            decoded = b64decode(data) if encoding == "base64" else decodestring(data)
        except PARSE_ERRORS as error:
            raise Refusal("document.damaged", f"it is damaged: {error}") from error
        yield from read_message(decoded, source, read_part)


def _inner(source: Source, origin: Origin, data: bytes, name: str, charset: str | None) -> Source:
    if source.depth >= source.limits.depth:
        raise Refusal("document.nested", f"it is inside of more than {source.limits.depth} mails")
    return Source(
        file=io.BytesIO(data),
        name=name,
        origin=origin,
        limits=source.limits,
        depth=source.depth + 1,
        charset=charset,
    )
