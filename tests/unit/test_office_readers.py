"""Books, presentations, workbooks and texts of office programs, read by the real process."""

import datetime
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import document_kit as kit
from baremetalrt.documents.document import Document
from baremetalrt.documents.reader_process import ReaderProcess

ODF = "urn:oasis:names:tc:opendocument:xmlns:"


@pytest.fixture(scope="module")
def reader() -> Iterator[ReaderProcess]:
    with ReaderProcess() as process:
        yield process


def one(reader: ReaderProcess, path: Path) -> Document:
    documents, unread = kit.read(path, reader=reader)
    assert not unread and len(documents) == 1
    return documents[0]


def test_books_are_read_in_their_order(reader: ReaderProcess, tmp_path: Path) -> None:
    """Which is that of the spine and not of the files; what closes itself hides nothing."""
    chapters = (
        "<h1>One</h1><p>It begins<a id='p1'/> here.</p><script src='a.js'/>",
        "<h1>Two</h1><p>It goes on: größer.</p>",
    )
    path = kit.write(tmp_path, "a.epub", kit.epub(*chapters, title="A book"))
    document = one(reader, path)
    assert (document.kind, document.title) == ("epub", "A book")
    assert document.text == "# One\n\nIt begins here.\n\n# Two\n\nIt goes on: größer."


def test_books_that_are_locked_are_listed(reader: ReaderProcess, tmp_path: Path) -> None:
    """Those whose fonts alone are scrambled are read."""
    aes = b"<x Algorithm='http://www.w3.org/2001/04/xmlenc#aes128-cbc'/>"
    data = kit.epub("<p>Words.</p>", extra=[("META-INF/encryption.xml", aes)])
    _, unread = kit.read(kit.write(tmp_path, "a.epub", data), reader=reader)
    assert [item.code for item in unread] == ["document.encrypted"]
    fonts = b"<x Algorithm='http://www.idpf.org/2008/embedding'/>"
    data = kit.epub("<p>Words.</p>", extra=[("META-INF/encryption.xml", fonts)])
    assert one(reader, kit.write(tmp_path, "b.epub", data)).text == "Words."


def test_presentations_are_read_slide_by_slide(reader: ReaderProcess, tmp_path: Path) -> None:
    """Titles are headings; tables are rows; notes belong to their slide."""
    table = [["name", "tons"], ["Ann", "12"]]
    data = kit.pptx(("Ships", "one", "two"), ("Harbours", "three"), notes="Speak up.", table=table)
    document = one(reader, kit.write(tmp_path, "a.pptx", data))
    assert document.kind == "pptx"
    assert document.text.split("\n\n") == [
        "# Ships",
        "one\ntwo",
        "# Harbours",
        "three",
        "name\ttons\nAnn\t12",
        "Speak up.",
    ]


def test_workbooks_are_read_row_by_row(reader: ReaderProcess, tmp_path: Path) -> None:
    """As people see them: sheets by name, whole numbers whole, dates as dates; hidden sheets are not."""
    when = datetime.datetime(2026, 11, 24)
    data = kit.xlsx(
        Ships=[["name", "tons", "built"], ["Ann", 12.0, when], [None, None, None], ["Bob", 1.5]],
        Lists_hidden=[["machinery"]],
        Notes=[["two\nlines"]],
    )
    document = one(reader, kit.write(tmp_path, "a.xlsx", data))
    assert document.kind == "sheet"
    assert document.text == (
        "# Ships\n\nname\ttons\tbuilt\nAnn\t12\t2026-11-24\n\nBob\t1.5\n\n# Notes\n\ntwo lines"
    )


def test_texts_of_libreoffice_are_read(reader: ReaderProcess, tmp_path: Path) -> None:
    """Headings as in Markdown, rows of tables as lines."""
    data = kit.odt("# Ships", "The log.", title="A log", table=[["name", "tons"], ["Ann", "12"]])
    document = one(reader, kit.write(tmp_path, "a.odt", data))
    assert (document.kind, document.title) == ("odt", "A log")
    assert document.text == "# Ships\n\nThe log.\n\nname\ttons\nAnn\t12"


def raw_odf(body: str, kind: str = "text") -> bytes:
    names = ("office", "text", "table")
    spaces = " ".join(f'xmlns:{name}="{ODF}{name}:1.0"' for name in names)
    content = f"<office:document-content {spaces}>{body}</office:document-content>"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
        archive.writestr("content.xml", content)
    return file.getvalue()


def test_texts_of_libreoffice_show_what_it_shows(reader: ReaderProcess, tmp_path: Path) -> None:
    """Deleted words, comments, hidden sections and the table of contents are not; notes come last."""
    body = (
        "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
        "<text:table-of-content><text:p>contents 5</text:p></text:table-of-content>"
        "<text:section text:display='none'><text:p>hidden</text:p></text:section>"
        "<text:p>a<text:s text:c='2'/>b<text:note><text:note-citation>1</text:note-citation>"
        "<text:note-body><text:p>a note</text:p></text:note-body></text:note> c"
        "<office:annotation><text:p>comment</text:p></office:annotation><text:tab/>d</text:p>"
        "<text:list><text:list-item><text:p>first</text:p></text:list-item></text:list>"
    )
    document = one(reader, kit.write(tmp_path, "a.odt", raw_odf(body)))
    assert document.text == "a  b c\td\n\n- first\n\na note"


def test_rich_text_is_read(reader: ReaderProcess, tmp_path: Path) -> None:
    """In its code page and beyond; hidden words, links and pictures are no text."""
    data = (
        rb"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0 Arial;}{\f1\fcharset204 Arial;}}"
        rb"{\info{\title A letter}}{\*\generator x;}\f0 Gr\'fc\'dfe | \u8364? {\f1\'cf\'f0}\par "
        rb"{\v hidden}shown \v hidden\v0 again{\deleted gone}\par "
        rb"{\field{\*\fldinst HYPERLINK \"http://example.org\"}{\fldrslt the link}}\par "
        rb"{\pict\pngblip " + b"89504e47" * 40 + rb"}{\pict\bin4 }}}}}\trowd one\cell two\cell\row "
        rb"\u-10179?\u-8704?\par}"
    ) + b"beyond"
    document = one(reader, kit.write(tmp_path, "a.rtf", data))
    assert (document.kind, document.title) == ("rtf", "A letter")
    assert document.text == ("Grüße | € Пр\nshown again\nthe link\none\ttwo\n\U0001f600")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (kit.epub("<p>Words.</p>"), "epub"),
        (kit.odt("Words."), "odt"),
        (raw_odf("<text:p>Words.</text:p>", "presentation"), "odt"),
        (kit.pptx(("Words.",)), "pptx"),
        (kit.xlsx(a=[["Words."]]), "sheet"),
        (kit.docx("Words."), "docx"),
        (kit.rtf("Words."), "rtf"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_content_says_what_it_is(
    data: bytes, kind: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    """Without a suffix, and in a mail that calls it a stream of bytes."""
    document = one(reader, kit.write(tmp_path, "a", data))
    assert document.kind == kind and document.text.endswith("Words.")
    message = kit.mail("See it.", attachments=[("a", "application/octet-stream", data)])
    documents, unread = kit.read(kit.write(tmp_path, "a.eml", bytes(message)), reader=reader)
    assert not unread and [item.kind for item in documents] == ["mail", kind]
