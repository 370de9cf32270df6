"""Which parts of a mail are what somebody wrote, and which are attached to it."""

import email
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import policy
from email.message import Message
from typing import Final

from baremetalrt.documents.cleaning import has_words
from baremetalrt.documents.document import Origin, Refusal, Unread
from baremetalrt.documents.limits import ReadingLimits
from baremetalrt.documents.readers.html import html_to_text
from baremetalrt.documents.readers.mail_parts import (
    PARSE_ERRORS,
    filename_of,
    text_of,
    typed_headers,
)

MAILS: Final = ("message/rfc822", "message/global", "message/news")
# Parts that carry no text of their own, and that nobody misses.
_MACHINERY: Final = frozenset(
    (
        "application/pgp-signature",
        "application/pkcs7-signature",
        "application/x-pkcs7-signature",
        "message/delivery-status",
        "message/disposition-notification",
        "message/feedback-report",
        "text/rfc822-headers",
        "text/x-amp-html",
        "text/x-moz-deleted",
        "application/pgp-keys",
    )
)
_ENCRYPTED: Final = ("application/pkcs7-mime", "application/x-pkcs7-mime")
_BODIES: Final = ("text/plain", "text/html")
_MAX_PARAMETER_CHARS: Final = 10_000
# A plain text of so few words, where the page has so many times more, says to look at the page.
_STUB_WORDS: Final = 40
_STUB_FACTOR: Final = 3
_STUB_CHARS: Final = 1 << 18
_BOUNDARY: Final = re.compile(r"^--([^\r\n]{1,200}?)[ \t]*\r?$", re.MULTILINE)
_BOUNDARY_CHARS: Final = 1 << 16


@dataclass
class SortedParts:
    """What a mail is made of, in its order."""

    bodies: list[Message] = field(default_factory=list)
    attachments: list[Message] = field(default_factory=list)
    refusals: list[Unread] = field(default_factory=list)


def sort_parts(message: Message, origin: Origin, limits: ReadingLimits) -> SortedParts:
    """The parts of `message`; mails in it are attachments, and are not looked into."""
    found = SortedParts()

    def refuse(code: str, reason: str) -> None:
        found.refusals.append(Unread(origin=origin, reason=reason, code=code))

    waiting, num_parts = [(message, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        num_parts += 1
        if depth > 4 * limits.depth:
            refuse("document.nested", "its parts are nested too deeply")
            break
        if num_parts > limits.parts:
            refuse("document.too-large", f"it has more than {limits.parts} parts")
            break
        if any(len(value) > _MAX_PARAMETER_CHARS for value in typed_headers(part)):
            refuse("document.damaged", "its headers are absurd")
            continue
        kind = part.get_content_type()
        if kind == "multipart/encrypted" or kind in _ENCRYPTED:
            refuse("document.encrypted", "it is encrypted")
        elif kind in _MACHINERY:
            continue
        elif kind in MAILS or _is_attached(part):
            found.attachments.append(part)
        elif part.is_multipart():
            waiting += [(one, depth + 1) for one in reversed(_inner(part))]
        elif part.get_content_maintype() == "multipart":
            whole = _with_found_boundary(part)
            if whole is None:
                found.bodies.append(part)
            else:
                waiting.append((whole, depth + 1))
        elif kind in _BODIES:
            found.bodies.append(part)
        else:
            found.attachments.append(part)
    return found


def _inner(part: Message) -> list[Message]:
    inner = [one for one in part.get_payload() if isinstance(one, Message)]
    if part.get_content_type() != "multipart/alternative":
        return inner
    others = [one for one in inner if one.get_content_type() == "text/calendar"]
    return [*_best_alternative([one for one in inner if one not in others]), *others]


def _best_alternative(parts: list[Message]) -> list[Message]:
    """The plain text, unless it says nothing, or that there is more to see; else the last one that is
    text, which the sender likes best."""
    told = [one for one in parts if _may_be_text(one)] or parts
    for part in told:
        if part.get_content_type() == "text/plain":
            text = text_of(part)
            if has_words(text[:10_000]) and not _is_stub(text, told):
                return [part]
    return [one for one in told if one.get_content_type() != "text/plain"][-1:] or told[-1:]


def _may_be_text(part: Message) -> bool:
    return part.get_content_type() in _BODIES or part.get_content_maintype() == "multipart"


def _is_stub(text: str, parts: list[Message]) -> bool:
    num_words = len(text.split())
    if num_words > _STUB_WORDS:
        return False
    page = next((one for part in parts for one in _flat(part) if _is_page(one)), None)
    if page is None:
        return False
    try:
        _, shown = html_to_text(text_of(page)[:_STUB_CHARS], is_mail=True)
    except Refusal:
        return False
    return len(shown.split()) > _STUB_FACTOR * num_words + _STUB_WORDS


def _is_page(part: Message) -> bool:
    return part.get_content_type() == "text/html"


def _flat(part: Message) -> Iterator[Message]:
    """A part, and what is directly in it and in that."""
    level = [part]
    for _ in range(3):
        yield from level
        level = [
            inner
            for one in level
            if one.is_multipart()
            for inner in one.get_payload()
            if isinstance(inner, Message)
        ]


def _with_found_boundary(part: Message) -> Message | None:
    """A multipart whose boundary is not named, or named wrongly: what stands twice in it is one."""
    try:
        body = str(part.get_payload())
        found = _BOUNDARY.search(body, 0, _BOUNDARY_CHARS)
        if found is None or body.count(f"\n--{found[1]}") < 1 or '"' in found[1]:
            return None
        head = f'Content-Type: {part.get_content_type()}; boundary="{found[1]}"\n\n'
        data = (head + body).encode("utf-8", "surrogateescape")
        whole = email.message_from_bytes(data, policy=policy.compat32)
    except (*PARSE_ERRORS, RecursionError):
        return None
    return whole if whole.is_multipart() else None


def _is_attached(part: Message) -> bool:
    if part.is_multipart():
        return False
    disposition = str(part.get("Content-Disposition", "")).strip().lower()
    return disposition.startswith("attachment") or (
        bool(filename_of(part)) and not disposition.startswith("inline")
    )
