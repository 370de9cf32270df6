"""Every format, written by a library and read by the real process."""

import mailbox
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import document_kit as kit
from baremetalrt.documents.document import Document
from baremetalrt.documents.reader_process import ReaderProcess
from baremetalrt.documents.readers.pdf import pages_to_text
from baremetalrt.documents.readers.pdf_lines import Line
from baremetalrt.documents.readers.quoting import own_words

KEY = "The key:\n-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"
LONG = (
    "The harbour master wrote down every ship that came in, and what it carried, "
    "and who had sent it, in a book that nobody ever read again."
)


@pytest.fixture(scope="module")
def reader() -> Iterator[ReaderProcess]:
    with ReaderProcess() as process:
        yield process


def one(reader: ReaderProcess, path: Path) -> Document:
    documents, unread = kit.read(path, reader=reader)
    assert not unread and len(documents) == 1
    return documents[0]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "Grüße aus Köln, schöne Tage, größer als je zuvor. 日本語も少し。"),
        ("utf-8-sig", "Grüße aus Köln mit einer Marke davor."),
        ("utf-16", "Grüße aus Köln, in zwei Bytes je Zeichen."),
        ("utf-16-le", "Plain words that an old notepad saved without a mark."),
        (
            "cp1252",
            "Grüße aus Köln: schöne, größere Häuser in alten Straßen – „überall“ hört man Geläut. "
            * 3,
        ),
        (
            "cp1251",
            "В начале было слово, и слово это записали в книгу, которую потом никто не читал. " * 3,
        ),
        (
            "koi8-r",
            "В начале было слово, и слово это записали в книгу, которую никто не читал. " * 3,
        ),
        (
            "shift_jis",
            "港の長は入ってくる船をすべて帳面に書きとめたが、だれもそれを読まなかった。" * 3,
        ),
        (
            "iso2022_jp",
            "港の長は入ってくる船をすべて帳面に書きとめたが、だれもそれを読まなかった。",
        ),
        ("gb18030", "港口的主人把每一艘进来的船都写在一本书里，可是后来再也没有人读过它。" * 3),
    ],
)
def test_text_is_read_in_the_encoding_it_is_in(
    encoding: str, text: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    """Nothing declares it: marks, validity and the frequency of letters tell."""
    path = kit.write(tmp_path, "letter.txt", text.encode(encoding))
    assert one(reader, path).text == text.strip()


def test_text_loses_what_nobody_sees(reader: ReaderProcess, tmp_path: Path) -> None:
    """Line ends become one kind; controls, soft hyphens and encoded data go."""
    data = (
        "First\u00ad line\r\nsecond\x07 line  \r\r\n\n\n\nthird\n" + "QUJD" * 100 + "\nlast\u200b"
    )
    path = kit.write(tmp_path, "a.txt", data)
    assert one(reader, path).text == "First line\nsecond line\n\nthird\nlast"


def test_text_loses_what_terminals_obey(reader: ReaderProcess, tmp_path: Path) -> None:
    """Colours, titles of windows, letters that are struck twice; a zero byte is only a zero byte."""
    data = (
        b"\x1b[31mred\x1b[0m words\x1b]0;a title\x07\n\x1b(BN\bNA\bAM\bME\bE\n_\bu_\bn\n"
        b"\x1b]never ended\na\0zero"
    )
    path = kit.write(tmp_path, "log.txt", data)
    assert one(reader, path).text == "red words\nNAME\nun\n]never ended\nazero"


def test_markdown_keeps_its_marks_and_has_the_title_of_its_heading(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """Front matter and comments go."""
    text = "---\ndate: 2026\n---\n\n# Boats\n\nThere are *many*.\n\n<!-- todo -->\n- one\n- two\n"
    document = one(reader, kit.write(tmp_path, "boats.md", text))
    assert (document.kind, document.title) == ("markdown", "Boats")
    assert document.text == "# Boats\n\nThere are *many*.\n\n- one\n- two"


def test_code_keeps_its_layout(reader: ReaderProcess, tmp_path: Path) -> None:
    """Indentation and blank lines mean something there."""
    text = "import os\n\n\n\ndef f(x):\n\treturn x\n\n\n\nclass C:\n    pass"
    document = one(reader, kit.write(tmp_path, "a.py", text))
    assert (document.kind, document.text) == ("code", text)


def test_a_page_is_read_without_what_one_clicks_on(reader: ReaderProcess, tmp_path: Path) -> None:
    """Navigation by tag, by role, by class and by being nothing but links; scripts, hidden elements."""
    html = f"""<!DOCTYPE html><html><head><meta charset="utf-8"><title>Harbours &amp; ships</title>
    <style>p {{ color: red }}</style><script>var x = "scripted words";</script></head><body>
    <nav><a href="/">Start page</a></nav><div class="sidebar">Sidebar words</div>
    <div role="navigation">By role</div>
    <ul><li><a href=a>Old posts</a></li><li><a href=b>New posts</a></li>
    <li><a href=c>All posts</a></li></ul>
    <h1>Harbours</h1><p>{LONG} See <a href="x">the book</a>.</p><p hidden>Hidden words</p>
    <ul><li>first item</li><li>second item</li></ul>
    <table><tr><td>tons</td><td>12</td></tr></table><pre>a  b
  c</pre>Tail<br>words<footer>Imprint</footer></body></html>"""
    document = one(reader, kit.write(tmp_path, "page.html", html))
    assert document.title == "Harbours & ships"
    assert document.text == (
        f"# Harbours\n\n{LONG} See the book.\n\n- first item\n- second item\n\ntons\t12\n\n"
        "a  b\n  c\n\nTail\nwords"
    )


def test_a_page_in_an_old_encoding_says_so_itself(reader: ReaderProcess, tmp_path: Path) -> None:
    """`<meta charset>` is believed, even where letters are too few to tell."""
    html = '<html><meta http-equiv="Content-Type" content="text/html; charset=koi8-r"><p>Привет'
    assert one(reader, kit.write(tmp_path, "p.html", html.encode("koi8-r"))).text == "Привет"


def test_main_is_the_page(reader: ReaderProcess, tmp_path: Path) -> None:
    """Where a page says which part of it is the text, the rest is not read."""
    html = f"<html><body><div>Around</div><main><p>{LONG}</p></main><div>Below</div></body></html>"
    assert one(reader, kit.write(tmp_path, "p.html", html)).text == LONG


def test_pdf_lines_become_paragraphs_again(reader: ReaderProcess, tmp_path: Path) -> None:
    """Also over the end of a page; headers, footers and page numbers go."""
    texts = [" ".join(f"{year} {word}" for word in LONG.split()) + "." for year in "abcd"]
    pages = [textwrap.wrap(text, 60) for text in texts]
    data = kit.pdf(pages, title="Ships", header="Harbour News", footer="page {page} of 4")
    document = one(reader, kit.write(tmp_path, "ships.pdf", data))
    assert (document.kind, document.title) == ("pdf", "Ships")
    assert "Harbour News" not in document.text and "page 2" not in document.text
    assert document.text == "\n\n".join(texts)


def test_a_sentence_goes_on_over_the_end_of_a_page(reader: ReaderProcess, tmp_path: Path) -> None:
    """A full last line without a full stop."""
    lines = textwrap.wrap(f"{LONG} {LONG}", 60)
    data = kit.pdf([lines[:3], lines[3:]])
    assert one(reader, kit.write(tmp_path, "a.pdf", data)).text == f"{LONG} {LONG}"


def test_rows_and_code_and_contents_of_a_pdf_stay_lines(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """They are not run together like a paragraph; the dots of contents are no text."""
    lines = textwrap.wrap(LONG, 60)
    rows = [("Name of the ship", "Tons"), ("Anna Maria of Husum", "12"), ("Bob", "1,300.00")]
    code = ["def f(x):", "    if x:", "        return x"]
    contents = ["1 Harbours . . . . . . . . . . . . . . 5", "2 Ships..................12"]
    drawn = [
        *([(72, line)] for line in lines),
        *([(72, name), (300, tons)] for name, tons in rows),
        *([(72 + 7.2 * (len(line) - len(line.lstrip())), line.lstrip())] for line in code),
        *([(72, line)] for line in contents),
    ]
    fonts = [*["Helvetica"] * (len(lines) + len(rows)), *["Courier"] * len(code)]
    data = kit.drawn_pdf(*drawn, fonts=fonts)
    assert one(reader, kit.write(tmp_path, "a.pdf", data)).text.split("\n\n") == [
        LONG,
        "\n".join("\t".join(row) for row in rows),
        "\n".join(code),
        "1 Harbours\t5\n2 Ships\t12",
    ]


def test_what_a_typewriter_wrote_is_no_code(reader: ReaderProcess, tmp_path: Path) -> None:
    """Where all letters are of one width, lines are lines of a paragraph."""
    lines = textwrap.wrap(LONG, 60)
    data = kit.drawn_pdf(*([(72, line)] for line in lines), fonts=["Courier"] * len(lines))
    assert one(reader, kit.write(tmp_path, "a.pdf", data)).text == LONG


@pytest.mark.parametrize(
    ("split", "elsewhere", "word"),
    [
        ("dpkg-/deb", "", "dpkg-deb"),
        ("har-/bour", "", "harbour"),
        ("under-/standing", "understanding", "understanding"),
        ("well-/known", "It is well-known.", "well-known"),
        ("ship-/builder", "A ship of a builder", "ship-builder"),
        ("utf-/8", "", "utf-8"),
        ("Anna-/Maria", "", "Anna-Maria"),
        ("state-of-/the-art", "", "state-of-the-art"),
    ],
)
def test_hyphens_at_the_end_of_lines_are_those_of_words_or_of_lines(
    split: str, elsewhere: str, word: str
) -> None:
    """As the rest of the text says, and else the word itself."""
    above, below = split.split("/")
    first = f"They lie at anchor there, {above}"
    pages = [[Line(elsewhere or "-"), Line(first), Line(f"{below} and elsewhere.")]]
    marked = [[Line(elsewhere or "-"), Line(f"{first[:-1]}\ufffe{below} and elsewhere.")]]
    assert f"there, {word} and elsewhere." in pages_to_text(marked)
    if below[0].islower():
        assert f"there, {word} and elsewhere." in pages_to_text(pages)


def test_joined_letters_of_arabic_are_in_their_order(reader: ReaderProcess, tmp_path: Path) -> None:
    """One drawing of two letters, which a PDF spells out, in a line that runs from the right."""
    glyphs = {
        0x41: "0645",
        0x42: "06440627",
        0x43: "0633",
        0x20: "0020",
    }  # meem, lam and alef, seen
    data = kit.pdf_with_unicode("ABC ABC", glyphs)
    assert one(reader, kit.write(tmp_path, "a.pdf", data)).text == "سلام سلام"


def test_typeset_letters_are_letters(reader: ReaderProcess, tmp_path: Path) -> None:
    """Ligatures and positional forms, Latin and Arabic."""
    data = "The o\ufb03ce \ufb01nds \ufeb3\ufefc\ufee1 and \ufee3\ufeae\ufea3\ufe92\ufe8e."
    path = kit.write(tmp_path, "a.txt", data)
    assert one(reader, path).text == "The office finds سلام and مرحبا."


def test_word_files_are_read_with_tables(reader: ReaderProcess, tmp_path: Path) -> None:
    """Headings as in Markdown, rows of tables as lines."""
    data = kit.docx("# Ships", LONG, title="A log", table=[["name", "tons"], ["Ann", "12"]])
    document = one(reader, kit.write(tmp_path, "log.docx", data))
    assert (document.kind, document.title) == ("docx", "A log")
    assert document.text == f"# Ships\n\n{LONG}\n\nname\ttons\nAnn\t12"


def test_word_files_show_what_word_shows(reader: ReaderProcess, tmp_path: Path) -> None:
    """Deleted words and alternatives for older programs are not shown; notes are."""
    namespace = f'xmlns:w="{kit.WORD_NAMESPACE}"'
    compatible = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    body = (
        "<w:p><w:r><w:t>kept </w:t></w:r><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
        "<mc:AlternateContent><mc:Choice><w:r><w:t>box</w:t></w:r></mc:Choice>"
        "<mc:Fallback><w:r><w:t>box</w:t></w:r></mc:Fallback></mc:AlternateContent></w:p>"
    )
    text = f"<w:document {namespace} {compatible}><w:body>{body}</w:body></w:document>"
    note = f"<w:footnotes {namespace}><w:p><w:r><w:t>a note</w:t></w:r></w:p></w:footnotes>"
    data = kit.raw_docx(text.encode(), footnotes=note.encode())
    assert one(reader, kit.write(tmp_path, "a.docx", data)).text == "kept box\n\na note"


def test_word_files_do_not_say_twice_or_show_what_is_hidden(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """A sentence that was moved stands where it is now; hidden words and prompts to type are none."""

    def words(text: str, properties: str = "") -> str:
        return f"<w:r><w:rPr>{properties}</w:rPr><w:t>{text} </w:t></w:r>"

    body = (
        f"<w:p><w:moveFrom>{words('moved')}</w:moveFrom></w:p><w:p>{words('middle')}</w:p>"
        f"<w:p><w:moveTo>{words('moved')}</w:moveTo></w:p>"
        f"<w:p>{words('hidden', '<w:vanish/>')}{words('shown', '<w:vanish w:val=%sfalse%s/>')}</w:p>"
        "<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr>"
        f"<w:sdtContent><w:p>{words('Click here')}</w:p></w:sdtContent></w:sdt>"
        f"<w:sdt><w:sdtContent><w:p>{words('filled in')}</w:p></w:sdtContent></w:sdt>"
        f"<w:p><w:ruby><w:rt>{words('spoken')}</w:rt><w:rubyBase>{words('written')}</w:rubyBase>"
        "</w:ruby></w:p>"
    ).replace("%s", "'")
    text = f'<w:document xmlns:w="{kit.WORD_NAMESPACE}"><w:body>{body}</w:body></w:document>'
    document = one(reader, kit.write(tmp_path, "a.docx", kit.raw_docx(text.encode())))
    assert document.text.split("\n\n") == ["middle", "moved", "shown", "filled in", "written"]


def test_a_mail_keeps_its_own_words_and_who_wrote_them(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """Quoted lines, their attribution and the signature go; subject, sender and date are context.

    A question stays that is answered below it.
    """
    text = (
        "Hello Bob,\n\nthe ship is here.\n\nOn Mon, 23 Nov 2026, Bob wrote:\n> Is it?\n>> Where?\n\n"
        "It came at noon.\n\n-- \nAnn, harbour master\n+49 123"
    )
    message = kit.mail(text, subject="Schöne Schiffe", sender="Änn <ann@example.org>")
    document = one(reader, kit.write(tmp_path, "a.eml", bytes(message)))
    assert document.kind == "mail" and document.title == "Schöne Schiffe"
    assert document.text == ("Hello Bob,\n\nthe ship is here.\n\n> Is it?\n\nIt came at noon.")
    assert document.context == (
        "Subject: Schöne Schiffe\nFrom: Änn <ann@example.org>\nTo: Bob <bob@example.org>\n"
        "Date: Tue, 24 Nov 2026 10:00:00 +0100"
    )


def test_attachments_are_read_by_the_same_readers(reader: ReaderProcess, tmp_path: Path) -> None:
    """Also those of a mail in a mail; what has no reader is listed, and the rest is read all the same."""
    inner = kit.mail(
        "An inner mail.",
        attachments=[("log.docx", "application/octet-stream", kit.docx("In Word."))],
    )
    message = kit.mail(
        "See what is attached.",
        attachments=[
            ("ships.pdf", "application/pdf", kit.pdf([["A line of a page."]])),
            ("photo.jpg", "image/jpeg", b"\xff\xd8\xff\xe0 not read"),
            ("notes", "text/html", b"<p>Notes as a page.</p>"),
        ],
        inner=[inner],
    )
    documents, unread = kit.read(kit.write(tmp_path, "a.eml", bytes(message)), reader=reader)
    assert {str(d.origin): (d.kind, d.text) for d in documents} == {
        "a.eml": ("mail", "See what is attached."),
        "a.eml#ships.pdf": ("pdf", "A line of a page."),
        "a.eml#notes": ("html", "Notes as a page."),
        "a.eml#part 4": ("mail", "An inner mail."),
        "a.eml#part 4/log.docx": ("docx", "In Word."),
    }
    assert [(str(u.origin), u.code) for u in unread] == [("a.eml#photo.jpg", "document.no-reader")]


def test_html_mail_is_read_where_there_is_no_plain_text(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """Without the quotation that the mail program appended."""
    html = "<p>Dear Bob,</p><p>it came.</p><div class='gmail_quote'>On Monday … <p>Is it?</p></div>"
    message = kit.mail("", html=html)
    assert one(reader, kit.write(tmp_path, "a.eml", bytes(message))).text == "Dear Bob,\n\nit came."


def test_answers_within_a_quotation_are_read(reader: ReaderProcess, tmp_path: Path) -> None:
    """Of HTML mail, too, with what they answer; mail programs wrap all of it in one element."""
    html = (
        "<div class='gmail_quote'><div class='gmail_attr'>On Mon, Nov 23, 2026, Bob wrote:</div>"
        "<blockquote class='gmail_quote'><p>We met.</p><p>When do you come?</p></blockquote>"
        "<div>At noon.</div><blockquote type='cite'>Bye</blockquote></div>"
    )
    message = kit.mail("", html=html)
    document = one(reader, kit.write(tmp_path, "a.eml", bytes(message)))
    assert document.text == "> When do you come?\n\nAt noon."


HIDDEN = {
    "size": "<span style='font-size:0'>Hidden</span>",
    "height": "<div style='max-height:0;overflow:hidden'>Hidden</div>",
    "opacity": "<span style='opacity: 0;'>Hidden</span>",
    "white": "<p style='color:#ffffff'>Hidden</p>",
    "background": "<div style='background:#202020'><font color='#222222'>Hidden</font></div>",
    "outlook": "<div style='mso-hide:all'>Hidden</div>",
    "class": "<style>p {margin:0} .a, div.h {display:none}</style><div class='x h'>Hidden</div>",
    "id": "<style>#pre{visibility:hidden!important}</style><span id=pre>Hidden</span>",
    "collapsed": "<div style='visibility:collapse'>Hidden</div>",
    "aside": "<div style='position:absolute;left:-9999px'>Hidden</div>",
    "bold": "<b style='display:none'>Hidden</b>",
    "cell": "<table><tr style='display:none'><td>Hidden</td></tr></table>",
    "transparent": "<p style='color:rgba(0,0,0,0)'>Hidden</p>",
}
SHOWN = {
    "white on dark": "<table bgcolor='#333'><td><a style='color:#fff'>Shown</a></table>",
    "white on an image": "<div style='background:url(a.png)'><p style='color:white'>Shown</p></div>",
    "white on a class": "<style>.d{background:#000}</style><p class=d style='color:#fff'>Shown</p>",
    "a size within none": "<table style='font-size:0'><td style='font-size:14px'>Shown</table>",
    "small screens": "<style>@media (width<9px){.w{display:none}}</style><p class=w>Shown</p>",
    "half seen": "<p style='opacity:0.8;line-height:1.0;height:100%;font-size:0.9em'>Shown</p>",
}


@pytest.mark.parametrize("name", [*HIDDEN, *SHOWN])
def test_what_a_mail_hides_is_not_read(name: str, reader: ReaderProcess, tmp_path: Path) -> None:
    """By size, colour, place, or a stylesheet; what only looks like that is read."""
    part = HIDDEN.get(name) or SHOWN[name]
    data = f"Subject: s\nFrom: a@b\nTo: c@d\nContent-Type: text/html\n\n{part}<p>Words.</p>"
    words = one(reader, kit.write(tmp_path, "a.eml", data)).text.split()
    assert words == (["Words."] if name in HIDDEN else ["Shown", "Words."])


def test_pages_hide_less_than_mail(reader: ReaderProcess, tmp_path: Path) -> None:
    """What fades in and folds out is a text; what nothing shows is none."""
    html = (
        "<html><style>.h{display:none} body{visibility:hidden}</style><body>"
        "<p style='opacity:0'>Fades in.</p><div style='max-height:0'>Folds out.</div>"
        "<p class=h>Hidden</p><p class='sr-only'>Hidden</p><p class='skip-link'>Hidden</p>"
        "<p class=link>Words.</p>"
    )
    document = one(reader, kit.write(tmp_path, "a.html", html))
    assert document.text.split() == ["Fades", "in.", "Folds", "out.", "Words."]


def test_mailboxes_are_read_message_by_message(reader: ReaderProcess, tmp_path: Path) -> None:
    """As `mailbox` writes them; lines of texts that begin with `From ` are none of them."""
    path = tmp_path / "inbox"
    box = mailbox.mbox(path)
    for number in range(50):
        box.add(
            kit.mail(
                f"Text {number} of the box.\n\nFrom here on, it goes on.", subject=f"S{number}"
            )
        )
    box.close()
    documents, unread = kit.read(path, reader=reader)
    assert not unread and len(documents) == 50
    assert documents[7].text == "Text 7 of the box.\n\nFrom here on, it goes on."
    assert str(documents[7].origin) == "inbox#message 8" and documents[7].title == "S7"


def test_mailboxes_with_unescaped_lines_are_not_torn(reader: ReaderProcess, tmp_path: Path) -> None:
    """After a blank line, `From ` begins a message only where a header follows."""
    head = "From a@b Tue Nov 24 10:00:00 2026\nSubject: one\nFrom: a@b\n\n"
    path = kit.write(
        tmp_path, "a.mbox", f"{head}Words.\n\nFrom there we went.\nHome.\n\n{head}More.\n"
    )
    documents, _ = kit.read(path, reader=reader)
    assert [d.text for d in documents] == ["Words.\n\nFrom there we went.\nHome.", "More."]


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) - 30, (1 << 20) + 1])
def test_messages_on_the_border_of_chunks_are_whole(
    size: int, reader: ReaderProcess, tmp_path: Path
) -> None:
    """A mailbox is read in pieces of 1 MiB, wherever messages begin."""
    head = "From a@b Tue Nov 24 10:00:00 2026\nSubject: one\nFrom: a@b\n\n"
    first = head + "words " * ((size - len(head)) // 6)
    path = kit.write(tmp_path, "a.mbox", f"{first}\n\n{head}Second.\n\n{head}Third.\n")
    documents, _ = kit.read(path, reader=reader)
    assert [d.text[:7] for d in documents] == ["words w", "Second.", "Third."]


def test_mail_without_a_suffix_is_known_by_its_headers(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """Mail folders are full of files called `1234.txt`, or nothing at all."""
    path = kit.write(tmp_path, "00042.txt", bytes(kit.mail("Words of a mail.")))
    document = one(reader, path)
    assert (document.kind, document.text) == ("mail", "Words of a mail.")


def test_files_of_apple_mail_are_mails(reader: ReaderProcess, tmp_path: Path) -> None:
    """The length comes first, and a property list last."""
    message = bytes(kit.mail("Words of a mail."))
    data = b"%-10d\n%s<?xml version='1.0'?><plist>flags</plist>" % (len(message), message)
    assert one(reader, kit.write(tmp_path, "1.emlx", data)).text == "Words of a mail."


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("Yes.\n\nOn Mon, 23 Nov 2026, Bob wrote:\nIs it?", "Yes.\n\nIs it?"),
        ("Ja.\n\nAm 23.11.2026 um 10:00 schrieb Bob <b@x>:\n> Da?", "Ja."),
        ("Oui.\n\nLe lun. 23 nov. 2026 à 10:00,\nBob <b@x> a écrit :\n\n> Là ?", "Oui."),
        ("Yes.\n\n-----Original Message-----\nFrom: Bob\nIs it?", "Yes."),
        ("Yes.\n\nFrom: Bob\nSent: Monday\nTo: Ann\nSubject: it\n\nIs it?", "Yes."),
        (
            "See.\n\n---------- Forwarded message ---------\nFrom: B\nDate: M\nSubject: S\n\nNews.",
            "See.\n\nFrom: B\nDate: M\nSubject: S\n\nNews.",
        ),
        ("Yes.\n\nSent from my iPhone", "Yes."),
        (
            "Hi,\n\n> We met.\n>\n> When do you come?\n> And who?\n\nAt noon.\n\n> Where?\nHere.\n> Bye",
            "Hi,\n\n> When do you come?\n> And who?\n\nAt noon.\n\n> Where?\nHere.",
        ),
        (
            "On Mon, Bob wrote:\n> Ann wrote:\n>> Who?\n>\n> You?\n> \n> -- \n> Bob\n\nI.",
            "> You?\n\nI.",
        ),
        (">> Who?\n> Ann wrote:\n\nI.", "I."),
        ("Yes.\n\n" + "_" * 40 + "\nlist mailing list\nhttps://lists.example.org/list", "Yes."),
        (
            "Ann said:\nit is here.\n\nFrom: the harbour",
            "Ann said:\nit is here.\n\nFrom: the harbour",
        ),
        ("a\n--\nb is a long text\n" + "and goes on\n" * 20, None),
    ],
)
def test_own_words_are_told_from_quoted_ones(text: str, own: str | None) -> None:
    """As mail programs of several languages mark them; what only looks alike stays."""
    assert own_words(text) == (text.strip("\n") if own is None else own)


def test_flowed_lines_are_joined(reader: ReaderProcess, tmp_path: Path) -> None:
    """`format=flowed` says which line ends are the mail program's."""
    head = b"Subject: x\nFrom: a@b\nTo: c@d\nContent-Type: text/plain; format=flowed\n\n"
    data = head + b"one \ntwo\nthree\n"
    assert one(reader, kit.write(tmp_path, "a.eml", data)).text == "one two\nthree"


@pytest.mark.parametrize("form", kit.FORMATS)
def test_the_same_words_come_out_of_every_format(
    form: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    """Ten pages, word for word, and nothing of what stood around them."""
    paragraphs = [
        " ".join(f"Paragraph {n} says {word} & more." for word in LONG.split()) for n in range(40)
    ]
    document = one(reader, kit.write_as(tmp_path, "words", paragraphs, form))
    assert document.text.replace("# ", "").split() == " ".join(paragraphs).split()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("empty.txt", b"", "file.empty"),
        ("blank.txt", b" \n\n ", "document.empty"),
        ("picture.png", b"\x89PNG\r\n\x1a\n", "document.no-reader"),
        ("program", b"\x7fELF\x02\x01\x01\x00" + bytes(100), "document.no-reader"),
        ("program.txt", b"MZ\x90\x00\x03" + bytes(100), "document.no-reader"),
        ("key", KEY.encode(), "document.secret"),
        ("key.eml", bytes(kit.mail(KEY)), "document.secret"),
        ("a.min.js", b"var a=1", "document.generated"),
        ("old.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "document.encrypted"),
        ("torn.docx", b"PK\x03\x04 and nothing else", "document.damaged"),
        ("torn.pdf", b"%PDF-1.7\nand nothing else", "document.damaged"),
    ],
)
def test_what_cannot_be_read_says_why(
    name: str, data: bytes, code: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    """With a code that programs can rely on."""
    documents, unread = kit.read(kit.write(tmp_path, name, data), reader=reader)
    assert not documents and [u.code for u in unread] == [code]


def test_a_pdf_of_pictures_has_no_text(reader: ReaderProcess, tmp_path: Path) -> None:
    """It is told from a damaged one."""
    documents, unread = kit.read(kit.write(tmp_path, "a.pdf", kit.pdf([[], []])), reader=reader)
    assert not documents and [u.code for u in unread] == ["document.no-text"]
