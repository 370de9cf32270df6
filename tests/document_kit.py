"""Documents of every kind, written by the libraries people's programs use, for tests and benchmarks."""

import html
import io
import textwrap
import zipfile
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path

from baremetalrt.documents import wire
from baremetalrt.documents.document import Document, Origin, Unread
from baremetalrt.documents.kinds import FileKind
from baremetalrt.documents.limits import ReadingLimits
from baremetalrt.documents.reader_process import ReaderProcess

WORD_NAMESPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(
    pages: Sequence[Sequence[str]],
    *,
    title: str = "",
    header: str | None = None,
    footer: str | None = None,
    password: str | None = None,
) -> bytes:
    """A PDF with one line of text below the other; `{page}` in header and footer is the number."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    encryption = StandardEncryption(password, canPrint=0) if password else None
    canvas = Canvas(file, pagesize=A4, encrypt=encryption)
    canvas.setTitle(title)
    for number, lines in enumerate(pages, 1):
        if header:
            canvas.drawString(72, 810, header.format(page=number))
        for at, line in enumerate(lines):
            canvas.drawString(72, 780 - 14 * at, line)
        if footer:
            canvas.drawString(72, 30, footer.format(page=number))
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def drawn_pdf(*lines: Sequence[tuple[float, str]], fonts: Sequence[str] = ()) -> bytes:
    """A PDF of one page with texts at places of a line; `fonts`, of one line each, are 12 points high."""
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file)
    for at, line in enumerate(lines):
        canvas.setFont(fonts[at] if at < len(fonts) else "Helvetica", 12)
        for left, text in line:
            canvas.drawString(left, 780 - 14 * at, text)
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def docx(*paragraphs: str, title: str = "", table: Sequence[Sequence[str]] = ()) -> bytes:
    """A Word file; a paragraph that begins with `# ` is a heading."""
    import docx as python_docx

    document = python_docx.Document()
    document.core_properties.title = title
    for paragraph in paragraphs:
        if paragraph.startswith("# "):
            document.add_heading(paragraph[2:], level=1)
        else:
            document.add_paragraph(paragraph)
    if table:
        rows = document.add_table(rows=len(table), cols=len(table[0])).rows
        for row, cells in zip(rows, table, strict=True):
            for cell, text in zip(row.cells, cells, strict=True):
                cell.text = text
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def raw_docx(document_xml: bytes, **parts: bytes) -> bytes:
    """A zip with this in place of the text that Word writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", document_xml)
        for name, data in parts.items():
            archive.writestr(f"word/{name}.xml", data)
    return file.getvalue()


def mail(
    text: str = "",
    *,
    html: str = "",
    subject: str = "A mail",
    sender: str = "Ann <ann@example.org>",
    attachments: Sequence[tuple[str, str, bytes]] = (),
    inner: Sequence[EmailMessage] = (),
) -> EmailMessage:
    """A mail; attachments are name, content type and data, `inner` are mails that are attached whole."""
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = sender
    message["To"] = "Bob <bob@example.org>"
    message["Date"] = "Tue, 24 Nov 2026 10:00:00 +0100"
    message["Message-ID"] = "<1@example.org>"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    for name, kind, data in attachments:
        main, _, sub = kind.partition("/")
        message.add_attachment(data, maintype=main, subtype=sub, filename=name)
    for one in inner:
        message.add_attachment(one)
    return message


def read(
    path: Path,
    *,
    limits: ReadingLimits | None = None,
    reader: ReaderProcess | None = None,
    kind: FileKind | None = None,
) -> tuple[list[Document], list[Unread]]:
    """What a real reading process makes of one file."""
    request = wire.Request(path=bytes(path), origin=Origin(path.name), kind=kind)
    own = reader or ReaderProcess(limits)
    try:
        items = list(own.read(request))
    finally:
        if reader is None:
            own.close()
    return (
        [item for item in items if isinstance(item, Document)],
        [item for item in items if isinstance(item, Unread)],
    )


def write(folder: Path, name: str, data: bytes | str) -> Path:
    """A file of a test."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


FORMATS = ("txt", "md", "html", "pdf", "docx", "eml", "mbox")


def write_as(folder: Path, name: str, paragraphs: Sequence[str], form: str) -> Path:
    """The same text in one of `FORMATS`, with what people's programs put around it."""
    text = "\n\n".join(paragraphs)
    match form:
        case "html":
            body = "".join(f"<p>{html.escape(one)}</p>" for one in paragraphs)
            menu = "<nav><a href='/'>Start</a></nav>"
            data = f"<html><body>{menu}<main>{body}</main><footer>Imprint</footer></body></html>".encode()
        case "pdf":
            lines = [line for one in paragraphs for line in textwrap.wrap(one, 90)]
            pages = [lines[at : at + 50] for at in range(0, len(lines), 50)]
            data = pdf(pages, title=name, header=f"{name} in print", footer="page {page}")
        case "docx":
            data = docx(*paragraphs)
        case "eml":
            data = bytes(mail(f"{text}\n\n-- \nAnn\n", subject=name))
        case "mbox":
            one = bytes(mail(f"{text}\n\nOn 1 May 2026, Bob wrote:\n> Send it.\n", subject=name))
            data = b"From a@b Tue Nov 24 10:00:00 2026\n" + one + b"\n"
        case _:
            data = text.encode()
    return write(folder, f"{name}.{form}", data)
