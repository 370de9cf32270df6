"""From a file to the reader of its kind."""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from baremetalrt.core.files import NotRegularError, open_regular
from baremetalrt.documents.document import Document, Origin, Reached, Refusal, Unread
from baremetalrt.documents.kinds import HEAD_BYTES, FileKind, kind_of
from baremetalrt.documents.limits import ReadingLimits
from baremetalrt.documents.readers.source import Source

Item = Document | Unread | Reached
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----")


def read_file(
    path: bytes,
    origin: Origin,
    limits: ReadingLimits,
    *,
    file: BinaryIO | None = None,
    kind: FileKind | None = None,
    skip_to: int = 0,
    number: int = 1,
    is_fatal: bool = False,
) -> Iterator[Item]:
    """What is in a file, which is opened unless it is given. What cannot be read is an `Unread`, also
    where it is the whole file.
    """
    try:
        with file or open_regular(path, follow=False) as opened:
            source = Source(
                file=opened,
                name=os.fsdecode(os.path.basename(path)),
                origin=origin,
                limits=limits,
                skip_to=skip_to,
                number=number,
                is_fatal=is_fatal,
            )
            yield from _without_secrets(read(source, kind))
    except Refusal as refusal:
        yield Unread(origin=origin, reason=refusal.reason, code=refusal.code)
    except OSError as error:
        yield unreadable(error, origin)


def unreadable(error: OSError, origin: Origin) -> Unread:
    """What the system said when a file was opened or read."""
    reason = error.strerror or str(error)
    if isinstance(error, NotRegularError):
        return Unread(origin=origin, reason=reason, code="file.special")
    if isinstance(error, PermissionError):
        return Unread(origin=origin, reason="you may not read it", code="file.permission")
    return Unread(origin=origin, reason=f"it cannot be read: {reason}", code="file.unreadable")


def read(source: Source, kind: FileKind | None = None) -> Iterator[Item]:
    """The documents of an open file or attachment; raises `Refusal`."""
    head = source.file.read(HEAD_BYTES)
    source.file.seek(0)
    if not head:
        raise Refusal("file.empty", "it is empty")
    kind = kind or kind_of(source.name, head)
    # Imported when needed: PDFium and lexbor take memory and time.
    match kind:
        case "text" | "markdown" | "code":
            from baremetalrt.documents.readers.text import read_text

            yield from read_text(source, kind)
        case "html":
            from baremetalrt.documents.readers.html import read_html

            yield from read_html(source)
        case "pdf":
            from baremetalrt.documents.readers.pdf import read_pdf

            yield from read_pdf(source)
        case "office":
            from baremetalrt.documents.readers.office import read_office

            yield from read_office(source)
        case "sheet":
            from baremetalrt.documents.readers.sheet import read_sheet

            yield from read_sheet(source)
        case "odf":
            from baremetalrt.documents.readers.odf import read_odf

            yield from read_odf(source)
        case "rtf":
            from baremetalrt.documents.readers.rtf import read_rtf

            yield from read_rtf(source)
        case "epub":
            from baremetalrt.documents.readers.epub import read_epub

            yield from read_epub(source)
        case "mail":
            from baremetalrt.documents.readers.mail import read_mail

            yield from read_mail(source, _read_part)
        case "mbox":
            from baremetalrt.documents.readers.mailbox import read_mailbox

            yield from read_mailbox(source, _read_part)


def _read_part(source: Source) -> Iterator[Document | Unread]:
    for item in read(source):
        if not isinstance(item, Reached):
            yield item


def _without_secrets(items: Iterator[Item]) -> Iterator[Item]:
    """A model repeats what it has learned: keys are none of that."""
    for item in items:
        if isinstance(item, Document) and _PRIVATE_KEY.search(item.text):
            reason = "there is a private key in it"
            yield Unread(origin=item.origin, reason=reason, code="document.secret")
        else:
            yield item
