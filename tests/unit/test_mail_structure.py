"""Mails and mailboxes as programs really write them, not as they should be."""

import base64
import binascii
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import document_kit as kit
from baremetalrt.documents.cleaning import clean
from baremetalrt.documents.reader_process import ReaderProcess

HEAD = "Subject: s\nFrom: a@b.c\nTo: d@e.f\n"
DATED = "From a@b.c Tue Nov 24 10:00:00 2026\n"


@pytest.fixture(scope="module")
def reader() -> Iterator[ReaderProcess]:
    with ReaderProcess() as process:
        yield process


def texts(reader: ReaderProcess, folder: Path, data: str, name: str = "a.mbox") -> list[str]:
    documents, unread = kit.read(kit.write(folder, name, data), reader=reader)
    assert not unread
    return [document.text for document in documents]


@pytest.mark.parametrize("above", ["\n", "\n\n", "\r\n", "\n\n\n"])
@pytest.mark.parametrize(
    "line",
    [
        "From a@b.c Tue Nov 24 10:00:00 2026",
        "From - Tue Nov 24 10:00:00 2026",
        "From MAILER-DAEMON Tue Nov 24 10:00 2026",
        "From 1617@xxx Tue Nov 24 10:00:00 +0000 2026",
        "From ann at example.org  Tue Nov  4 10:00:00 2026",
        "From a@b.c Tue, 24 Nov 2026 10:00:00 +0100",
    ],
)
def test_a_date_makes_a_border(
    line: str, above: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    """With a blank line above it or not; none of the mails is lost in another."""
    box = "".join(f"{line}\n{HEAD}\nMail number {n}.{above}" for n in range(5))
    assert texts(reader, tmp_path, box) == [f"Mail number {n}." for n in range(5)]


def test_sentences_make_no_border(reader: ReaderProcess, tmp_path: Path) -> None:
    """Not even those above something like a header."""
    body = "One.\n\nFrom now on we meet Mondays.\nNote: bring cake.\n\nFrom: here on.\n"
    assert texts(reader, tmp_path, f"{DATED}{HEAD}\n{body}") == [body.strip()]
    # A text is no mailbox for beginning like one.
    text = "From now on we meet Mondays.\nNote: bring cake.\n"
    assert texts(reader, tmp_path, text, "note.txt") == [text.strip()]


def test_borders_without_dates_are_addresses(reader: ReaderProcess, tmp_path: Path) -> None:
    """Below a blank line, as some programs write them."""
    box = "".join(f"From a@b.c\n{HEAD}\nMail number {n}.\n\n" for n in range(3))
    assert texts(reader, tmp_path, box) == [f"Mail number {n}." for n in range(3)]


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
@pytest.mark.parametrize("kind", ["message/rfc822", "message/global"])
def test_attached_mails_are_read_though_they_are_encoded(
    kind: str, encoding: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    """Which no standard allows, and programs do."""
    inner = f"{HEAD}Content-Type: text/plain; charset=utf-8\n\nThe inner wörds.\n".encode()
    coded = base64.encodebytes(inner) if encoding == "base64" else binascii.b2a_qp(inner)
    data = (
        f"{HEAD}Content-Type: multipart/mixed; boundary=X\n\n--X\n\nOuter words.\n"
        f"--X\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n{coded.decode()}\n--X--\n"
    )
    assert texts(reader, tmp_path, data, "a.eml") == ["Outer words.", "The inner wörds."]


def alternative(*parts: str) -> str:
    inner = "".join(f"--X\nContent-Type: {part}\n" for part in parts)
    return f"{HEAD}Content-Type: multipart/alternative; boundary=X\n\n{inner}--X--\n"


PAGE = "text/html\n\n<p>" + "The words that the sender wrote. " * 20 + "</p>"


def test_the_page_is_read_where_the_text_only_points_at_it(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """In whatever language it says so; a short text that says what the page says is the text."""
    stub = "text/plain\n\nDiese Nachricht bitte im HTML-Format ansehen.\n"
    (found,) = texts(reader, tmp_path, alternative(stub, PAGE), "a.eml")
    assert found.startswith("The words that the sender wrote.")
    related = f"multipart/related; boundary=Y\n\n--Y\nContent-Type: {PAGE}\n--Y--\n"
    (found,) = texts(reader, tmp_path, alternative(stub, related), "b.eml")
    assert found.startswith("The words that the sender wrote.")
    short = alternative("text/plain\n\nYes, at noon.\n", "text/html\n\n<p>Yes, at noon.</p>\n")
    assert texts(reader, tmp_path, short, "c.eml") == ["Yes, at noon."]


@pytest.mark.parametrize("kind", ["text/calendar; method=REQUEST", "text/vcard", "text/directory"])
def test_data_of_calendars_is_no_text(kind: str, reader: ReaderProcess, tmp_path: Path) -> None:
    """Neither beside the text nor instead of it; it is listed."""
    part = f"{kind}\n\nBEGIN:VCALENDAR\nSUMMARY:Dentist\nEND:VCALENDAR\n"
    for data in (
        alternative("text/plain\n\nPlease join us.\n", part),
        alternative("text/plain\n\n \n", "text/html\n\n<p>Please join us.</p>\n", part),
        alternative("text/plain\n\nPlease join us.\n", part).replace("alternative", "mixed"),
    ):
        documents, unread = kit.read(kit.write(tmp_path, "a.eml", data), reader=reader)
        assert [document.text for document in documents] == ["Please join us."]
        assert {item.code for item in unread} <= {"document.no-reader"}
    assert unread


@pytest.mark.parametrize("declared", ["", "; boundary=other"])
def test_a_boundary_that_is_not_named_is_found(
    declared: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    """It is what stands twice; without any, the body is a text."""
    page = "--abc\nContent-Type: text/html\n\n<p>Words.\n--abc--\n"
    parts = f"--abc\nContent-Type: text/plain\n\nWords.\n{page}"
    data = f"{HEAD}Content-Type: multipart/alternative{declared}\n\n{parts}"
    assert texts(reader, tmp_path, data, "a.eml") == ["Words."]
    data = f"{HEAD}Content-Type: multipart/mixed{declared}\n\nOnly words.\n"
    assert texts(reader, tmp_path, data, "b.eml") == ["Only words."]


NOISE = random.Random(1).randbytes(400)
ENCODED = {
    "base64": base64.encodebytes(NOISE + bytes(200) + NOISE).decode(),
    "pgp": "-----BEGIN PGP MESSAGE-----\nVersion: GnuPG v2\n\n"
    + base64.encodebytes(NOISE).decode()
    + "=aBcD\n-----END PGP MESSAGE-----\n",
    "pgp, cut off": "-----BEGIN PGP MESSAGE-----\n\n" + base64.encodebytes(NOISE).decode(),
    "a key": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"
    + base64.encodebytes(NOISE).decode()
    + "-----END PGP PUBLIC KEY BLOCK-----\n",
    "a certificate": "-----BEGIN CERTIFICATE-----\n"
    + base64.encodebytes(NOISE).decode()
    + "-----END CERTIFICATE-----\n",
    "uuencode": "begin 644 a.bin\n"
    + "".join(binascii.b2a_uu(NOISE[at : at + 45]).decode() for at in range(0, 400, 45))
    + "`\nend\n",
    "yenc": "=ybegin line=128 size=9 name=a\nab}c=d{\n=yend size=9\n",
    "a hash": NOISE[:32].hex() + "\n",
}


@pytest.mark.parametrize("name", ENCODED)
def test_encoded_data_is_not_learned(name: str) -> None:
    """And what stands around it is."""
    assert clean(f"Words above.\n{ENCODED[name]}Words below.") == "Words above.\nWords below."


def test_signed_words_are_learned() -> None:
    """Without what signs them."""
    text = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nI signed this.\n"
        f"-----BEGIN PGP SIGNATURE-----\n\n{base64.encodebytes(NOISE[:70]).decode()}"
        "-----END PGP SIGNATURE-----\n"
    )
    assert clean(text) == "I signed this."


def test_long_words_are_not_encoded() -> None:
    """Compounds, paths, addresses, rules, names of programs."""
    text = "\n".join(
        (
            "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamten",
            "/usr/share/documentation/packages/someThingElse/andEvenMore/of/it",
            "https://example.org/a/very/long/path?with=query&and=more#fragment",
            "-" * 70,
            "TestTheThingThatHasAVeryLongNameBecauseSomebodyLikesLongNames",
            "begin 7 things at once",
        )
    )
    assert clean(text) == text
    picture = base64.b64encode(NOISE).decode()
    assert clean(f"See ![it](data:image/png;base64,{picture}) here.") == "See ![it]() here."
