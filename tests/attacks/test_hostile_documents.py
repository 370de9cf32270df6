"""Documents that were made to harm: each is listed as unread, in time, and the next one is read."""

import io
import os
import random
import socket
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import document_kit as kit
from baremetalrt.core.units import MIB
from baremetalrt.documents import wire
from baremetalrt.documents.document import Origin, Unread
from baremetalrt.documents.limits import ReadingLimits
from baremetalrt.documents.reader_process import ReaderProcess
from baremetalrt.documents.readers.dispatch import read_file
from baremetalrt.documents.walking import FoundFile, walk

# Processor time decides, so that a busy machine does not.
LIMITS = ReadingLimits(deadline_s=40.0, cpu_s=8)
# What may be said of a hostile file: it was refused, it was stopped, or there was nothing in it.
REFUSED = ("document.too-large", "document.nested", "document.damaged", "document.no-text")
STOPPED = ("document.memory", "document.deadline", "document.crashed", "document.empty")
FROM = b"From a@b Tue Nov 24 10:00:00 2026\n"
HEAD = b"Subject: s\nFrom: a@b\nTo: c@d\n"


@pytest.fixture(scope="module")
def reader() -> Iterator[ReaderProcess]:
    with ReaderProcess(LIMITS) as process:
        yield process


def refused(reader: ReaderProcess, path: Path) -> list[str]:
    """The codes of what was not read; afterwards an honest file is."""
    documents, unread = kit.read(path, reader=reader)
    assert not documents
    honest = kit.write(path.parent, "honest.txt", "An honest text.")
    assert [d.text for d in kit.read(honest, reader=reader)[0]] == ["An honest text."]
    return [item.code for item in unread]


def newest_process() -> psutil.Process:
    """The reading process that was started last."""
    found = [c for c in psutil.Process().children() if "reader_worker" in " ".join(c.cmdline())]
    return max(found, key=psutil.Process.create_time)


def word(body: bytes, prolog: bytes = b"") -> bytes:
    namespace = kit.WORD_NAMESPACE.encode()
    return kit.raw_docx(
        prolog
        + b'<w:document xmlns:w="'
        + namespace
        + b'"><w:body>'
        + body
        + b"</w:body></w:document>"
    )


def test_zip_bombs_are_refused(reader: ReaderProcess, tmp_path: Path) -> None:
    """1 GiB of text in a file of 1 MB: counted while it is expanded, and no further."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("word/document.xml", "w", force_zip64=True) as part,
    ):
        part.write(f'<w:document xmlns:w="{kit.WORD_NAMESPACE}"><w:p><w:t>'.encode())
        for _ in range(1024):
            part.write(b"words " * (MIB // 6))
    assert len(file.getvalue()) < 8 * MIB
    started = time.monotonic()
    path = kit.write(tmp_path, "bomb.docx", file.getvalue())
    assert refused(reader, path) == ["document.too-large"]
    assert time.monotonic() - started < 2 * LIMITS.deadline_s


def test_zips_that_lie_about_their_sizes_are_refused(reader: ReaderProcess, tmp_path: Path) -> None:
    """What the directory says is not what is expanded."""
    data = bytearray(word(b"<w:p><w:r><w:t>" + b"words " * 100_000 + b"</w:t></w:r></w:p>"))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (100).to_bytes(4, "little")
    assert refused(reader, kit.write(tmp_path, "a.docx", bytes(data))) == ["document.damaged"]


@pytest.mark.parametrize(
    ("prolog", "body"),
    [
        pytest.param(
            b"<!DOCTYPE w [<!ENTITY a 'lol'>"
            + b"".join(b"<!ENTITY %c '%s'>" % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(12))
            + b"]>",
            b"<w:t>&m;</w:t>",
            id="entities",
        ),
        pytest.param(
            b"<!DOCTYPE w [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>",
            b"<w:t>&a;</w:t>",
            id="external",
        ),
    ],
)
def test_entities_are_refused(
    prolog: bytes, body: bytes, reader: ReaderProcess, tmp_path: Path
) -> None:
    """Word files have none: neither billions of them nor other files by them."""
    assert refused(reader, kit.write(tmp_path, "a.docx", word(body, prolog))) == [
        "document.damaged"
    ]


def test_deep_word_files_are_refused(reader: ReaderProcess, tmp_path: Path) -> None:
    """Elements in elements, a million deep."""
    path = kit.write(tmp_path, "a.docx", word(b"<w:p>" * 1_000_000))
    assert refused(reader, path) == ["document.nested"]


def test_archives_of_very_many_files_are_refused(reader: ReaderProcess, tmp_path: Path) -> None:
    """20,000 entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"word/{number}", b"")
    assert refused(reader, kit.write(tmp_path, "a.docx", file.getvalue())) == ["document.too-large"]


MAINS = {
    "a.docx": "word/document.xml",
    "a.pptx": "ppt/presentation.xml",
    "a.xlsx": "xl/workbook.xml",
    "a.odt": "content.xml",
    "a.epub": "META-INF/container.xml",
}


def packed(name: str, body: bytes) -> bytes:
    """An archive with this in the place where a reader looks first."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MAINS[name], body)
    return file.getvalue()


HOSTILE_XML = {
    "bomb": b"<a>" + b"words " * (136 * MIB // 6) + b"</a>",
    "entities": b"<!DOCTYPE a [<!ENTITY a 'lol'><!ENTITY b '&a;&a;&a;'>]><a>&b;</a>",
    "external": b"<!DOCTYPE a [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><a>&a;</a>",
    "deep": b"<a>" * 1_000_000,
    "nothing": b"<a/>",
    "torn": b"<a",
    "noise": bytes(range(256)) * 1000,
}


@pytest.mark.parametrize("attack", HOSTILE_XML)
@pytest.mark.parametrize("name", MAINS)
def test_hostile_archives_are_refused(
    name: str, attack: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    """Of every office program, and books: bombs, entities, depth, nonsense."""
    path = kit.write(tmp_path, name, packed(name, HOSTILE_XML[attack]))
    codes = refused(reader, path)
    assert codes and set(codes) <= {*REFUSED, "document.empty"}


def test_a_book_that_leads_outside_of_itself_leads_nowhere(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """Its pages are parts of it: neither a file of this machine nor itself again and again."""
    secret = kit.write(tmp_path, "secret.xhtml", "<p>A secret.</p>")
    data = kit.epub("<p>Honest words.</p>")
    for target in (f"../../../../..{secret}", str(secret), f"file://{secret}", "book.opf"):
        changed = data.replace(b"chapter%201.xhtml", target.encode())
        documents, unread = kit.read(kit.write(tmp_path, "a.epub", changed), reader=reader)
        assert "secret" not in "".join(document.text for document in documents)
        assert documents or unread


def test_a_cell_at_the_end_of_the_world(reader: ReaderProcess, tmp_path: Path) -> None:
    """A sheet of two cells that claims seventeen billion: refused, or those two."""
    import openpyxl

    workbook = openpyxl.Workbook()
    workbook.active["A1"] = "first words"
    workbook.active["XFD1048576"] = "last words"
    workbook.save(tmp_path / "a.xlsx")
    documents, unread = kit.read(tmp_path / "a.xlsx", reader=reader)
    assert documents or unread[0].code in (*REFUSED, *STOPPED)
    honest = kit.write(tmp_path, "honest.txt", "An honest text.")
    assert [d.text for d in kit.read(honest, reader=reader)[0]] == ["An honest text."]


HOSTILE_RTF = {
    "groups": b"{" * 2_000_000 + b"words",
    "binary": b"\\bin1 x" * 300_000 + b"words",
    "endless-binary": b"words \\bin999999999 " + b"x" * 1000,
    "links": b"{\\field{\\*\\fldinst{HYPERLINK " * 100_000 + b"words",
    "hidden": b"\\v " * 500_000 + b"words",
    "numbers": b"words \\u99999999999?\\u-99999?\\'zz\\u55357? words",
    "pictures": b"{\\pict " + b"ff" * 4_000_000 + b"} words",
    "fonts": b"{\\fonttbl" + b"{\\f0\\fcharset78 " * 100_000 + b"words",
    "code-page": b"\\ansicpg99999 \\'ff words",
}


@pytest.mark.parametrize("name", HOSTILE_RTF)
def test_hostile_rich_text_ends(name: str, reader: ReaderProcess, tmp_path: Path) -> None:
    """Read or listed, in time."""
    path = kit.write(tmp_path, "a.rtf", b"{\\rtf1 " + HOSTILE_RTF[name] + b"}")
    documents, unread = kit.read(path, reader=reader)
    assert documents or unread[0].code in (*REFUSED, *STOPPED)
    assert not [item for item in unread if item.code == "document.crashed"]


STYLES = {
    "rules": b"<style>" + b".a{display:none}" * 200_000 + b"</style>" + b"<p class=a>x" * 20_000,
    "braces": b"<style>" + b"{" * 2_000_000 + b"</style>",
    "comments": b"<style>" + b"/*" * 1_000_000 + b"</style>",
    "selectors": b"<style>" + b".a" * 500_000 + b"{display:none}</style>",
    "inline": b"<p style='" + b"color:" * 500_000 + b"'>x",
    "colors": b"<p style='color:rgba(999,999,999,1.2.3);background:#ggg'>x" * 20_000,
}


@pytest.mark.parametrize("name", STYLES)
def test_no_style_takes_long(name: str, reader: ReaderProcess, tmp_path: Path) -> None:
    """Stylesheets are read to see what they hide, and cost no more than the page."""
    data = b"<html>" + STYLES[name] + b"<div>Honest words.</div>"
    documents, _ = kit.read(kit.write(tmp_path, "a.html", data), reader=reader)
    assert documents and "Honest words." in documents[0].text


ENDLESS_HTML = {
    "nested": b"<div>" * 100_000 + b"words",
    "nested-tables": b"<table><tr><td>" * 20_000 + b"words",
    "formatting": b"<b><i><a>" * 30_000 + b"words",
    "unclosed-comment": b"<p>" + b"<!-- " * 1_000_000,
    "unclosed-script": b"<script>" + b"words " * 2_000_000,
    "one-tag": b"<p " + b'a="b" ' * 1_000_000,
    "attributes": b"<p " + b" ".join(b"a%d=1" % i for i in range(200_000)) + b">",
    "doctypes": b"<!doctype html>" * 500_000,
    "entities": b"&" * 8_000_000,
    "open-angles": b"<" * 8_000_000,
}


@pytest.mark.parametrize("name", ENDLESS_HTML)
def test_html_that_never_ends_is_ended(name: str, reader: ReaderProcess, tmp_path: Path) -> None:
    """Read where that is quick, listed where it is not; the process and its successor go on."""
    started = time.monotonic()
    path = kit.write(tmp_path, "a.html", b"<html>" + ENDLESS_HTML[name])
    documents, unread = kit.read(path, reader=reader)
    assert documents or unread[0].code in (*REFUSED, *STOPPED)
    assert time.monotonic() - started < 2.5 * LIMITS.deadline_s
    honest = kit.write(tmp_path, "honest.html", "<p>An honest page.")
    assert [d.text for d in kit.read(honest, reader=reader)[0]] == ["An honest page."]


SLOW_TEXT = {
    "spaces": b"words" + b" " * 4_000_000 + b"x",
    "dashes": b"words\n" + b"-" * 4_000_000,
    "comments": b"# words\n" + b"<!--" * 1_000_000,
    "rules": b"words\n" + b"---\n" * 1_000_000,
    "headers": b"words: a\n" * 400_000,
    "quotes": b"words\n" + b">" * 4_000_000,
    "no-newline": b"a" * 4_000_000 + b" words",
    "marks": "e\u0301\u0323".encode() * 400_000,
    "one-letter-and-marks": b"words e" + "\u0301\u0323".encode() * 500_000,
    "half-decoded": b"w\xe9rds " * 700_000,
    "escapes": b"\x1b$B" * 1_300_000 + b"words",
}


@pytest.mark.parametrize("name", SLOW_TEXT)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".eml"])
def test_no_text_takes_long(name: str, suffix: str, reader: ReaderProcess, tmp_path: Path) -> None:
    """4 MB of what is bad for regular expressions: seconds, as for any other 4 MB."""
    data = SLOW_TEXT[name] if suffix != ".eml" else HEAD + b"\n" + SLOW_TEXT[name]
    documents, unread = kit.read(kit.write(tmp_path, f"a{suffix}", data), reader=reader)
    assert documents or [item.code for item in unread] == ["document.empty"]


def test_encrypted_pdfs_are_told_from_others(reader: ReaderProcess, tmp_path: Path) -> None:
    """Nobody is asked for a password."""
    path = kit.write(tmp_path, "a.pdf", kit.pdf([["Secret words."]], password="opensesame"))
    assert refused(reader, path) == ["document.encrypted"]


def pdf_of(*objects: bytes, trailer: bytes = b"<</Root 1 0 R/Size 9>>", prev: str = "") -> bytes:
    """A PDF of these objects, numbered from 1."""
    data, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    table += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(data)
    if prev == "itself":
        trailer = trailer[:-2] + b"/Prev %d>>" % start
    return data + table + b"trailer\n" + trailer + b"\nstartxref\n%d\n%%%%EOF" % start


def stream(data: bytes, extra: bytes = b"") -> bytes:
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(data), extra, data)


PAGES = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</XObject<</F 5 0 R>>>>>>"
HOSTILE_PDFS = {
    "pages-in-a-circle": pdf_of(CATALOG, b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 4>>"),
    "many-claimed-pages": pdf_of(CATALOG, b"<</Type/Pages/Kids[2 0 R]/Count 2000000000>>"),
    "parents-in-a-circle": pdf_of(
        CATALOG, b"<</Type/Pages/Kids[3 0 R]/Count 1/Parent 3 0 R>>", b"<</Type/Page/Parent 2 0 R>>"
    ),
    "table-before-itself": pdf_of(CATALOG, PAGES, PAGE, stream(b""), prev="itself"),
    "length-of-itself": pdf_of(CATALOG, PAGES, PAGE, b"<</Length 4 0 R>>stream\nBT\nendstream"),
    "form-in-itself": pdf_of(
        CATALOG,
        PAGES,
        PAGE,
        stream(b"/F Do"),
        stream(
            b"/F Do /F Do",
            b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</F 5 0 R>>>>",
        ),
    ),
    "bomb": pdf_of(
        CATALOG, PAGES, PAGE, stream(zlib.compress(bytes(1 << 30), 9), b"/Filter/FlateDecode")
    ),
    "bomb-in-bomb": pdf_of(
        CATALOG,
        PAGES,
        PAGE,
        stream(
            zlib.compress(zlib.compress(bytes(1 << 28), 9), 9), b"/Filter[/FlateDecode/FlateDecode]"
        ),
    ),
    "deep-arrays": pdf_of(CATALOG, PAGES, PAGE, b"[" * 1_000_000),
    "text-without-end": pdf_of(CATALOG, PAGES, PAGE, stream(b"BT (words) Tj " * 1_000_000)),
    "no-objects": b"%PDF-1.7\nstartxref\n9999999999\n%%EOF",
    "noise": b"%PDF-1.7\n" + bytes(range(256)) * 10_000,
}


@pytest.mark.parametrize("name", HOSTILE_PDFS)
def test_hostile_pdfs_end(name: str, reader: ReaderProcess, tmp_path: Path) -> None:
    """Circles in pages and tables, bombs, depth: refused or stopped."""
    codes = refused(reader, kit.write(tmp_path, "a.pdf", HOSTILE_PDFS[name]))
    assert codes and set(codes) <= {*REFUSED, *STOPPED}


def nested_mail(depth: int) -> bytes:
    data = HEAD + b"\nThe innermost words.\n"
    for _ in range(depth):
        data = HEAD + b"Content-Type: message/rfc822\n\n" + data
    return data


def nested_parts(depth: int) -> bytes:
    head = HEAD + b"Content-Type: multipart/mixed; boundary=b0\n\n"
    parts = (
        b"--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n" % (i, i + 1) for i in range(depth)
    )
    return head + b"".join(parts) + b"--b%d\n\nThe innermost words.\n" % depth


@pytest.mark.parametrize("depth", [40, 200, 5000])
@pytest.mark.parametrize("make", [nested_mail, nested_parts])
def test_deeply_nested_mail_is_refused(
    make: "object", depth: int, reader: ReaderProcess, tmp_path: Path
) -> None:
    """Mails in mails, and parts in parts, beyond what people do."""
    codes = refused(reader, kit.write(tmp_path, "a.eml", make(depth)))  # type: ignore[operator]
    assert codes == ["document.nested"]


HOSTILE_MAIL = {
    "many-parts": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nwords\n" * 100_000,
    "many-headers": b"X: y\n" * 500_000 + b"\nwords",
    "long-header": b"X: " + b"y" * 8_000_000 + b"\n\nwords",
    "folded-header": b"Content-Type: text/plain;\n" + b' a="b";\n' * 200_000 + b"\nwords",
    "encoded-subject": b"Subject: " + b"=?utf-8?q?a?= " * 300_000 + b"\n\nwords",
    "continued-name": b"Content-Disposition: attachment;"
    + b"".join(b" filename*%d=a;" % i for i in range(100_000))
    + b"\n\nwords",
    "no-charset": b"Content-Type: text/plain; charset=unicode_escape\n\nwords \\ud800",
    "zip-charset": b"Content-Type: text/plain; charset=zlib\n\nwords",
    "idna-charset": b"Content-Type: text/plain; charset=idna\n\n" + b"w\xe9rds " * 100_000,
    "odd-charset": b'Content-Type: text/plain; charset="\xff\x00"\n\nwords',
    "torn-base64": b"Content-Transfer-Encoding: base64\n\nd29yZHM=" + b"=" * 1_000_000,
    "torn-uuencode": b"Content-Transfer-Encoding: x-uuencode\n\nbegin 644 a\nM\nend\n",
    "no-boundary": b"Content-Type: multipart/mixed\n\nwords",
    "empty-boundary": b'Content-Type: multipart/mixed; boundary=""\n\n--\n\nwords\n----',
    "nul": b"Content-Type: text/plain\n\nwords\x00words",
}


@pytest.mark.parametrize("name", HOSTILE_MAIL)
def test_hostile_mail_harms_nobody(name: str, reader: ReaderProcess, tmp_path: Path) -> None:
    """Read or listed; never a crash, never a minute."""
    started = time.monotonic()
    path = kit.write(tmp_path, "a.eml", HEAD + HOSTILE_MAIL[name])
    documents, unread = kit.read(path, reader=reader)
    assert documents or unread
    assert not [item for item in unread if item.code in ("document.crashed", "document.memory")]
    assert time.monotonic() - started < LIMITS.deadline_s


def test_names_of_attachments_are_names(reader: ReaderProcess, tmp_path: Path) -> None:
    """No folder of ours, and nothing that a terminal would obey."""
    name = b"../../etc/pass=1B[31mwd=0D=0A.txt".replace(b"=", b"%")
    head = b"Content-Disposition: attachment; filename*=utf-8''" + name
    documents, _ = kit.read(
        kit.write(tmp_path, "a.eml", HEAD + head + b"\n\ninner words"), reader=reader
    )
    part = documents[0].origin.part
    assert part.isprintable() and "/" not in part and "etc" not in part


def test_one_fatal_message_costs_one_message(tmp_path: Path) -> None:
    """The mailbox goes on after it, in a new process."""
    limits = ReadingLimits(deadline_s=3.0, cpu_s=30)
    fatal = b"Content-Type: text/html\n\n" + ENDLESS_HTML["nested"]
    box = b"".join(
        FROM + HEAD + body + b"\n\n"
        for body in (b"\nfirst words", fatal, b"\nsecond words", fatal, b"\nthird words")
    )
    documents, unread = kit.read(kit.write(tmp_path, "a.mbox", box), limits=limits)
    assert [(d.text, d.origin.part) for d in documents] == [
        ("first words", "message 1"),
        ("second words", "message 3"),
        ("third words", "message 5"),
    ]
    assert [(u.code, u.origin.part) for u in unread] == [
        ("document.deadline", "message 2"),
        ("document.deadline", "message 4"),
    ]


def test_processor_time_is_bounded_apart_from_the_clock(tmp_path: Path) -> None:
    """The system ends the process, where the caller would have waited."""
    path = kit.write(tmp_path, "a.html", ENDLESS_HTML["nested"])
    started = time.monotonic()
    _, unread = kit.read(path, limits=ReadingLimits(deadline_s=120.0, cpu_s=1))
    assert [item.code for item in unread] == ["document.deadline"]
    assert time.monotonic() - started < 60


def test_memory_is_bounded(tmp_path: Path) -> None:
    """What needs more is listed, and what needs less is read afterwards."""
    limits = ReadingLimits(memory_bytes=160 * MIB)
    large = kit.write(tmp_path, "a.txt", "\U0001f6a2 words " * 3_000_000)
    with ReaderProcess(limits) as reader:
        assert refused(reader, large) == ["document.memory"]


def test_a_process_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """Between two files, nobody notices."""
    path = kit.write(tmp_path, "a.txt", "some words")
    with ReaderProcess(LIMITS) as reader:
        assert len(kit.read(path, reader=reader)[0]) == 1
        child = newest_process()
        child.kill()
        assert [d.text for d in kit.read(path, reader=reader)[0]] == ["some words"]


def test_huge_files_are_refused_at_once(reader: ReaderProcess, tmp_path: Path) -> None:
    """1 TiB of nothing."""
    for name in ("a.py", "a.html", "a.pdf", "a.docx", "a.eml"):
        path = kit.write(tmp_path, name, b"words ")
        os.truncate(path, 1 << 40)
        started = time.monotonic()
        codes = refused(reader, path)
        assert codes[0] in ("document.too-large", "document.no-reader")
        assert time.monotonic() - started < 5


def test_a_huge_message_in_a_mailbox_is_passed_over(tmp_path: Path) -> None:
    """It is not held in memory, here or there, and the next one is read."""
    limits = ReadingLimits(message_bytes=MIB, memory_bytes=160 * MIB)
    path = tmp_path / "a.mbox"
    with path.open("wb") as file:
        file.write(FROM + HEAD + b"\nfirst words\n\n" + FROM + HEAD + b"\n")
        for _ in range(300):
            file.write(b"words " * (MIB // 6) + b"\n")
        file.write(b"\n" + FROM + HEAD + b"\nlast words\n")
    tracemalloc.start()
    documents, unread = kit.read(path, limits=limits)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d.text for d in documents] == ["first words", "last words"]
    assert [(u.code, u.origin.part) for u in unread] == [("document.too-large", "message 2")]
    assert peak_bytes < 20 * MIB


def special_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.txt"))
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    (folder / "up").symlink_to(folder.parent)
    (folder / "device.txt").symlink_to("/dev/zero")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """Pipes, sockets, devices behind links, links in circles: listed, and nothing waits."""
    special_files(tmp_path)
    kit.write(tmp_path, "words.txt", "words")
    found = {item.origin.path.rpartition("/")[2]: item for item in walk([tmp_path])}
    assert {name: item.code for name, item in found.items() if isinstance(item, Unread)} == {
        "pipe.txt": "file.special",
        "socket.txt": "file.special",
        "loop.txt": "file.link",
        "up": "file.link",
        "device.txt": "file.link",
    }
    assert isinstance(found["words.txt"], FoundFile)


def test_what_became_no_file_is_not_read(reader: ReaderProcess, tmp_path: Path) -> None:
    """Between looking and opening, anything may take a file's place."""
    special_files(tmp_path)
    for name, code in (
        ("pipe.txt", "file.special"),
        ("socket.txt", "file.unreadable"),
        ("loop.txt", "file.unreadable"),
        ("device.txt", "file.unreadable"),
        ("gone.txt", "file.unreadable"),
    ):
        request = wire.Request(path=bytes(tmp_path / name), origin=Origin(name))
        (item,) = reader.read(request)
        assert isinstance(item, Unread) and item.code == code


@pytest.fixture
def nobody() -> Iterator[None]:
    """Not the superuser, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("nobody")
def test_what_may_not_be_read_is_listed() -> None:
    """Files and folders."""
    with tempfile.TemporaryDirectory() as name:
        path = kit.write(Path(name), "closed.txt", "words")
        path.chmod(0)
        (item,) = read_file(bytes(path), Origin("closed.txt"), LIMITS)
        assert isinstance(item, Unread) and item.code == "file.permission"
        path.unlink()
        folder = kit.write(Path(name), "closed/a.txt", "words").parent
        folder.chmod(0)
        found = list(walk([Path(name)]))
        assert [item.code for item in found if isinstance(item, Unread)] == ["file.permission"]
        folder.chmod(0o700)


def test_names_that_are_no_text_are_read(reader: ReaderProcess, tmp_path: Path) -> None:
    """File names are bytes."""
    path = bytes(tmp_path) + b"/\xff\xfe name.txt"
    with open(path, "wb") as file:
        file.write(b"words")
    (found,) = walk([tmp_path])
    assert isinstance(found, FoundFile) and "\ufffd" in found.origin.path
    (item,) = reader.read(wire.Request(path=found.path, origin=found.origin))
    assert not isinstance(item, Unread)


def test_the_process_cannot_write_and_cannot_start_others(tmp_path: Path) -> None:
    """Its limits hold, as the system sees them."""
    with ReaderProcess(LIMITS) as reader:
        kit.read(kit.write(tmp_path, "a.txt", "words"), reader=reader)
        child = newest_process()
        if not hasattr(child, "rlimit"):
            pytest.skip("this system does not show the limits of others")
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert child.rlimit(psutil.RLIMIT_NPROC) == (0, 0)
        assert child.rlimit(psutil.RLIMIT_AS) == (LIMITS.memory_bytes, LIMITS.memory_bytes)


def samples() -> dict[str, bytes]:
    """One honest document of each format."""
    message = bytes(kit.mail("Plain words.", html="<p>Words</p>", attachments=[ATTACHED]))
    return {
        "a.pdf": kit.pdf([["Some words of a page."] * 5] * 3, header="A header"),
        "a.docx": kit.docx("# Words", "Some words.", table=[["a", "b"]]),
        "a.odt": kit.odt("# Words", "Some words.", table=[["a", "b"]]),
        "a.pptx": kit.pptx(("Words", "Some words."), notes="Notes.", table=[["a", "b"]]),
        "a.xlsx": kit.xlsx(a=[["Some words.", 1], [2.5, None]]),
        "a.epub": kit.epub("<h1>Words</h1><p>Some words.</p>", title="Words"),
        "a.rtf": kit.rtf("Some wörds.", "More words."),
        "a.html": b"<html><nav>menu</nav><table><tr><td><p>words<ul><li>one<li>two</table>" * 20,
        "a.eml": message,
        "a.mbox": (FROM + message + b"\n\n") * 3,
        "a.txt": "Wörter in allerlei Sprachen: слова, 言葉, λόγια. ".encode() * 20,
    }


ATTACHED = ("a.docx", "application/octet-stream", kit.docx("Attached words."))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, taken out, doubled."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 3, 30))):
        at = rng.randrange(len(found))
        match rng.randrange(4):
            case 0:
                found[at] = rng.randrange(256)
            case 1:
                del found[at : at + rng.randrange(40)]
            case 2:
                found[at:at] = found[at : at + rng.randrange(200)]
            case _:
                found[at : at + 1] = rng.choice((b"\0", b"\xff" * 8, b"999999999", b"<", b"\n\n"))
        found = found or bytearray(b"x")
    return bytes(found)


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("num", [25, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_documents_are_read_or_listed(
    name: str, num: int, reader: ReaderProcess, tmp_path: Path
) -> None:
    """Whatever was damaged; no reader raises what nobody expects, which would end the process."""
    rng, data = random.Random(num), samples()[name]
    for _ in range(num):
        path = kit.write(tmp_path, name, damaged(data, rng))
        documents, unread = kit.read(path, reader=reader)
        assert documents or unread
        assert not [item for item in unread if item.code == "document.crashed"], path.read_bytes()
