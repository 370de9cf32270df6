"""One mail: who wrote what to whom, and what was attached."""

import email
import io
import re
from collections.abc import Callable, Iterator
from email import policy
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from typing import Final

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Origin, Refusal, Unread
from baremetalrt.documents.encoding import decode
from baremetalrt.documents.readers.html import html_to_text
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
_MAX_FIELD_CHARS: Final = 200


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
    except (MessageError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise Refusal("document.damaged", f"it is damaged: {error}") from error
    yield from _read(message, source, read_part)


def _read(message: Message, source: Source, read_part: ReadPart) -> Iterator[Item]:
    bodies, attachments, refusals = _sort_parts(message, source)
    fields = {name: _field(message, name) for name in _FIELDS}
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
    waiting, num_parts = [(message, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        num_parts += 1
        if num_parts > source.limits.parts or depth > 4 * source.limits.depth:
            what = "nested" if depth > 4 * source.limits.depth else "too-large"
            reason = (
                "its parts are nested too deeply" if what == "nested" else "it has too many parts"
            )
            refusals.append(Unread(origin=source.origin, reason=reason, code=f"document.{what}"))
            break
        if any(len(value) > _MAX_PARAMETER_CHARS for name, value in _types(part)):
            refusals.append(
                Unread(
                    origin=source.origin, reason="its headers are absurd", code="document.damaged"
                )
            )
            continue
        kind = part.get_content_type()
        if kind == "multipart/encrypted" or kind in _ENCRYPTED:
            refusals.append(
                Unread(origin=source.origin, reason="it is encrypted", code="document.encrypted")
            )
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


def _types(part: Message) -> Iterator[tuple[str, str]]:
    """The headers whose parameters will be parsed, as they are."""
    for name, value in part.raw_items():
        if name.lower() in ("content-type", "content-disposition"):
            yield name, str(value)


def _best_alternative(parts: list[Message]) -> list[Message]:
    """The plain text, unless it says nothing; else the last one, which the sender likes best."""
    for part in parts:
        if part.get_content_type() == "text/plain" and has_words(_text(part)[:10_000]):
            return [part]
    return parts[-1:]


def _is_attached(part: Message) -> bool:
    if part.is_multipart():
        return False
    disposition = str(part.get("Content-Disposition", "")).strip().lower()
    return disposition.startswith("attachment") or (
        bool(_filename(part)) and not disposition.startswith("inline")
    )


def _body_text(part: Message) -> str:
    text = _text(part)
    if part.get_content_type() == "text/html":
        text = html_to_text(text, is_mail=True)[1]
    elif _is_flowed(part):
        text = _unflow(text)
    return own_words(text.replace("\r\n", "\n"))


def _is_flowed(part: Message) -> bool:
    return str(part.get_param("format") or "").lower() == "flowed"


def _unflow(text: str) -> str:
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


def _text(part: Message) -> str:
    return decode(_payload(part), _charset(part))


def _payload(part: Message) -> bytes:
    try:
        payload = part.get_payload(decode=True)
    except (MessageError, ValueError, LookupError, TypeError, AssertionError):
        return b""
    return payload if isinstance(payload, bytes) else b""


def _charset(part: Message) -> str | None:
    try:
        return part.get_content_charset()
    except (MessageError, ValueError, LookupError, TypeError, AssertionError):
        return None


def _filename(part: Message) -> str:
    try:
        name = _unfold(part.get_filename() or "")
    except (MessageError, ValueError, LookupError, TypeError, AssertionError):
        return ""
    # Only a name: the sender may have written a path.
    return re.split(r"[/\\]", name)[-1][-120:]


def _field(message: Message, name: str) -> str:
    # Raw, because spam has bytes in its headers that belong to no encoding it names.
    value = next((v for k, v in message.raw_items() if k.lower() == name.lower()), "")
    return one_line_title(_unfold(str(value)), _MAX_FIELD_CHARS)


def _unfold(value: str) -> str:
    """A header as people see it, whatever encodings are in it."""
    value = value[:4000]
    if not value.isascii():
        value = decode(value.encode("utf-8", "surrogateescape"))
    pieces = []
    try:
        for piece, charset in decode_header(value):
            pieces.append(decode(piece, charset) if isinstance(piece, bytes) else piece)
    except (MessageError, ValueError, LookupError, TypeError, AssertionError):
        return value
    return "".join(pieces)


def _read_attachment(
    part: Message, number: int, source: Source, read_part: ReadPart
) -> Iterator[Item]:
    kind = part.get_content_type()
    name = _filename(part)
    origin = source.origin.inside(one_line_title(name or f"part {number}"))
    try:
        if kind == "message/rfc822":
            for inner in part.get_payload() if part.is_multipart() else []:
                if isinstance(inner, Message):
                    yield from _read(inner, _inner(source, origin, b"", name, None), read_part)
            return
        data = _payload(part)
        if not data.strip():
            raise EMPTY
        suffix = _SUFFIXES.get(kind, "")
        name = name if "." in name or not suffix else f"{name or 'part'}{suffix}"
        yield from read_part(_inner(source, origin, data, name, _charset(part)))
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
