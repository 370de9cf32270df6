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


def pdf_with_unicode(text: str, unicode: dict[int, str]) -> bytes:
    """A PDF of one line drawn as `text`; each code of it means what `unicode` has in hexadecimal."""
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file, pageCompression=0)
    canvas.drawString(72, 780, text)
    canvas.showPage()
    canvas.save()
    lines = "\n".join(f"<{code:02X}> <{meant}>" for code, meant in unicode.items())
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def\n"
        "1 begincodespacerange\n<00> <FF>\nendcodespacerange\n"
        f"{len(unicode)} beginbfchar\n{lines}\nendbfchar\nendcmap end end"
    ).encode()
    data = file.getvalue()
    number = data.count(b" 0 obj") + 1
    # An object more, behind the others; readers find it though no table has it.
    stream = b"%d 0 obj\n<</Length %d>>stream\n%s\nendstream\nendobj\n" % (number, len(cmap), cmap)
    changed = data.replace(b"/Type /Font", b"/ToUnicode %d 0 R /Type /Font" % number, 1)
    at = changed.rindex(b"xref\n", 0, changed.rindex(b"startxref"))
    return changed[:at] + stream + b"trailer" + changed[changed.rindex(b"trailer") + 7 :]


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


def odt(*paragraphs: str, title: str = "", table: Sequence[Sequence[str]] = ()) -> bytes:
    """A text of LibreOffice; a paragraph that begins with `# ` is a heading."""
    import odfdo

    document = odfdo.Document("text")
    document.meta.title = title
    document.body.clear()
    for one in paragraphs:
        head = odfdo.Header(1, one[2:]) if one.startswith("# ") else odfdo.Paragraph(one)
        document.body.append(head)
    if table:
        rows = odfdo.Table("t", width=len(table[0]), height=len(table))
        rows.set_values(table)
        document.body.append(rows)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def pptx(*slides: Sequence[str], notes: str = "", table: Sequence[Sequence[str]] = ()) -> bytes:
    """A presentation; each slide is a title and lines below it, notes and table are on the last."""
    import pptx as python_pptx

    document = python_pptx.Presentation()
    for title, *lines in slides:
        slide = document.slides.add_slide(document.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text_frame.text = "\n".join(lines)
    if notes:
        slide.notes_slide.notes_text_frame.text = notes
    if table:
        shape = slide.shapes.add_table(len(table), len(table[0]), 0, 0, 1000, 1000)
        for row, cells in enumerate(table):
            for column, text in enumerate(cells):
                shape.table.cell(row, column).text = text
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def xlsx(**sheets: Sequence[Sequence[object]]) -> bytes:
    """A workbook; a sheet whose name ends with `_hidden` is."""
    import openpyxl

    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, rows in sheets.items():
        sheet = workbook.create_sheet(name)
        sheet.sheet_state = "hidden" if name.endswith("_hidden") else "visible"
        for row in rows:
            sheet.append(list(row))
    file = io.BytesIO()
    workbook.save(file)
    return file.getvalue()


def epub(*chapters: str, title: str = "", extra: Sequence[tuple[str, bytes]] = ()) -> bytes:
    """A book whose chapters are bodies of pages; the files have names in another order."""
    items, order = [], []
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", b"application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        )
        for number, chapter in enumerate(chapters):
            name = f"chapter {len(chapters) - number}.xhtml"
            page = (
                '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml">'
                f"<head><title/></head><body>{chapter}</body></html>"
            )
            archive.writestr(f"OEBPS/{name}", page, zipfile.ZIP_DEFLATED)
            target = name.replace(" ", "%20")
            items.append(
                f'<item id="c{number}" href="{target}" media-type="application/xhtml+xml"/>'
            )
            order.append(f'<itemref idref="c{number}"/>')
        archive.writestr(
            "OEBPS/book.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" '
            'xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<metadata><dc:title>{title}</dc:title></metadata>"
            f"<manifest>{''.join(items)}</manifest><spine>{''.join(order)}</spine></package>",
        )
        for name, data in extra:
            archive.writestr(name, data)
    return file.getvalue()


def rtf(*paragraphs: str) -> bytes:
    """A text of an old word processor."""
    body = "\\par\n".join("".join(map(_in_rtf, one)) for one in paragraphs)
    head = r"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}\f0 "
    return f"{head}{body}}}".encode("ascii")


def _in_rtf(char: str) -> str:
    if char.isascii() and char not in "\\{}":
        return char
    halves = char.encode("utf-16-le")
    numbers = (int.from_bytes(halves[at : at + 2], "little", signed=True) for at in (0, 2))
    return "".join(f"\\u{number}?" for number in list(numbers)[: len(halves) // 2])


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


FORMATS = ("txt", "md", "html", "pdf", "docx", "odt", "pptx", "xlsx", "epub", "rtf", "eml", "mbox")


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
        case "odt":
            data = odt(*paragraphs)
        case "pptx":
            data = pptx(*(one.split(" ", 1) for one in paragraphs))
        case "xlsx":
            data = xlsx(words=[[one] for one in paragraphs])
        case "epub":
            data = epub(*(f"<p>{html.escape(one)}</p>" for one in paragraphs), title=name)
        case "rtf":
            data = rtf(*paragraphs)
        case "eml":
            data = bytes(mail(f"{text}\n\n-- \nAnn\n", subject=name))
        case "mbox":
            one = bytes(mail(f"{text}\n\nOn 1 May 2026, Bob wrote:\n> Send it.\n", subject=name))
            data = b"From a@b Tue Nov 24 10:00:00 2026\n" + one + b"\n"
        case _:
            data = text.encode()
    return write(folder, f"{name}.{form}", data)
