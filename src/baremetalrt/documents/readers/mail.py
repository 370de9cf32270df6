"""One mail: who wrote what to whom, and what was attached."""

import email
import io
import re
from collections.abc import Callable, Iterator
from email import policy
from email.message import Message
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
    typed_headers,
    unflow,
)
from baremetalrt.documents.readers.quoting import own_words
from baremetalrt.documents.readers.source import Source, too_large

Item = Document | Unread
ReadPart = Callable[[Source], Iterator[Item]]
# Parts that carry no text of their own, and that nobody misses.
_MACHINERY: Final = frozenset(
    (
        "application/pgp-signature",
        "application/pkcs7-signature",
        "application/x-pkcs7-signature",
        "message/delivery-status",
        "text/rfc822-headers",
        "application/pgp-keys",
    )
)
_ENCRYPTED: Final = ("application/pkcs7-mime", "application/x-pkcs7-mime")
_SUFFIXES: Final = {
    "text/html": ".html",
    "text/markdown": ".md",
    "application/pdf": ".pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}
_FIELDS: Final = ("Subject", "From", "To", "Date")
_ESCAPED_FROM: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
# Apple Mail puts the length before a mail, and its own notes after it.
_LENGTH_LINE: Final = re.compile(rb"(\d{1,12})[ \t]*\r?\n")
_MAX_HEADER_BYTES: Final = 1 << 20
_MAX_PARAMETER_CHARS: Final = 10_000


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
    bodies, attachments, refusals = _sort_parts(message, source)
    fields = {name: field_of(message, name) for name in _FIELDS}
    context = "\n".join(f"{name}: {value}" for name, value in fields.items() if value)
    text = clean("\n\n".join(filter(None, map(_body_text, bodies))))
    if has_words(text):
        yield Document(
            text=text,
            origin=source.origin,
            kind="mail",
            title=one_line_title(fields["Subject"]),
            context=context,
        )
    elif not attachments and not refusals:
        raise EMPTY
    yield from refusals
    for number, part in enumerate(attachments, 1):
        yield from _read_attachment(part, number, source, read_part)


def _sort_parts(
    message: Message, source: Source
) -> tuple[list[Message], list[Message], list[Unread]]:
    bodies: list[Message] = []
    attachments: list[Message] = []
    refusals: list[Unread] = []

    def refuse(code: str, reason: str) -> None:
        refusals.append(Unread(origin=source.origin, reason=reason, code=code))

    waiting, num_parts = [(message, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        num_parts += 1
        if depth > 4 * source.limits.depth:
            refuse("document.nested", "its parts are nested too deeply")
            break
        if num_parts > source.limits.parts:
            refuse("document.too-large", f"it has more than {source.limits.parts} parts")
            break
        if any(len(value) > _MAX_PARAMETER_CHARS for value in typed_headers(part)):
            refuse("document.damaged", "its headers are absurd")
            continue
        kind = part.get_content_type()
        if kind == "multipart/encrypted" or kind in _ENCRYPTED:
            refuse("document.encrypted", "it is encrypted")
        elif kind in _MACHINERY:
            continue
        elif kind == "message/rfc822" or _is_attached(part):
            attachments.append(part)
        elif part.is_multipart():
            inner = [one for one in part.get_payload() if isinstance(one, Message)]
            if kind == "multipart/alternative":
                inner = _best_alternative(inner)
            waiting += [(one, depth + 1) for one in reversed(inner)]
        elif part.get_content_maintype() == "text" and kind in ("text/plain", "text/html"):
            bodies.append(part)
        else:
            attachments.append(part)
    return bodies, attachments, refusals


def _best_alternative(parts: list[Message]) -> list[Message]:
    """The plain text, unless it says nothing; else the last one, which the sender likes best."""
    for part in parts:
        if part.get_content_type() == "text/plain" and has_words(text_of(part)[:10_000]):
            return [part]
    return parts[-1:]


def _is_attached(part: Message) -> bool:
    if part.is_multipart():
        return False
    disposition = str(part.get("Content-Disposition", "")).strip().lower()
    return disposition.startswith("attachment") or (
        bool(filename_of(part)) and not disposition.startswith("inline")
    )


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
        if kind == "message/rfc822":
            for inner in part.get_payload() if part.is_multipart() else []:
                if isinstance(inner, Message):
                    yield from _read(inner, _inner(source, origin, b"", name, None), read_part)
            return
        data = payload_of(part)
        if not data.strip():
            raise EMPTY
        suffix = _SUFFIXES.get(kind, "")
        name = name if "." in name or not suffix else f"{name or 'part'}{suffix}"
        yield from read_part(_inner(source, origin, data, name, charset_of(part)))
    except Refusal as refusal:
        yield Unread(origin=origin, reason=refusal.reason, code=refusal.code)


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
